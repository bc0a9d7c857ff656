-- Accuracy by dimension. A case counts for each dimension on which its target is labelled.
-- Relations: judgements, cases, methods(position, method, label), columns(position, name, judge, benchmark),
--            names(index, name): AlignX's dimensions. P-SOUPS cases carry the name of theirs.
WITH directions AS (
    SELECT
        benchmark,
        case_id,
        dimension,
        unnest(direction) AS sign,
        generate_subscripts(direction, 1) - 1 AS index
    FROM cases
),
labels AS (
    SELECT
        d.benchmark,
        d.case_id,
        d.dimension <> '' AS named,
        d.index,
        CASE WHEN d.dimension <> '' THEN d.dimension ELSE names.name END AS label
    FROM directions AS d
    LEFT JOIN names ON names.index = d.index
    WHERE d.sign <> 0
)
SELECT
    c.name AS panel,
    m.label AS series,
    dense_rank() OVER (ORDER BY l.named, l.index, l.label)::DOUBLE AS x,
    l.label,
    count(*) AS n,
    count(*) FILTER (j.correct) AS correct
FROM judgements AS j
JOIN methods AS m ON m.method = j.method
JOIN columns AS c ON c.judge = j.judge AND c.benchmark = j.benchmark
JOIN labels AS l ON l.benchmark = j.benchmark AND l.case_id = j.case_id
GROUP BY c.position, c.name, m.position, m.label, l.named, l.index, l.label
ORDER BY c.position, m.position, x;
