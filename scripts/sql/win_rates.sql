-- Table 3: how often the response under one method's description beats that under another's, ties counting half.
-- Relations: wins, methods(position, method, label, paper), columns(position, name, benchmark, paper),
--            paper(method, "column", percent).
WITH games AS (
    SELECT
        method_a AS method,
        method_b AS opponent,
        benchmark,
        case_id,
        CASE outcome WHEN 'a' THEN 1.0 WHEN 'b' THEN 0.0 ELSE 0.5 END AS won
    FROM wins
    UNION ALL
    SELECT
        method_b,
        method_a,
        benchmark,
        case_id,
        CASE outcome WHEN 'a' THEN 0.0 WHEN 'b' THEN 1.0 ELSE 0.5 END
    FROM wins
)
SELECT
    m.label AS method,
    c.name || ', against ' || o.label AS "column",
    c.position * (SELECT count(*) FROM methods) + o.position AS column_position,
    list(g.benchmark || ' ' || g.case_id ORDER BY g.benchmark, g.case_id) AS cases,
    list(g.won::DOUBLE ORDER BY g.benchmark, g.case_id) AS outcomes,
    count(*) AS n,
    100 * avg(g.won::DOUBLE) AS percent,
    any_value(p.percent) AS paper
FROM games AS g
JOIN methods AS m ON m.method = g.method
JOIN methods AS o ON o.method = g.opponent
JOIN columns AS c ON c.benchmark = g.benchmark
LEFT JOIN paper AS p ON p.method = m.paper AND p."column" = c.paper || '/vs ' || o.paper
GROUP BY m.position, m.label, o.position, o.label, c.position, c.name
ORDER BY m.position, c.position, o.position;
