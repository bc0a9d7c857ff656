-- Table 1: what each benchmark contains, counted from its cases.
-- Relations: cases, columns(position, benchmark, in_domain).
WITH directions AS (
    SELECT benchmark, case_id, unnest(direction) AS sign, generate_subscripts(direction, 1) AS dimension
    FROM cases
),
labels AS (
    SELECT
        benchmark,
        count(DISTINCT dimension) FILTER (sign <> 0) AS dimensions,
        count(*) FILTER (sign > 0) AS preferred,
        count(*) FILTER (sign < 0) AS non_preferred
    FROM directions
    GROUP BY benchmark
)
SELECT
    c.benchmark,
    count(*) AS n,
    any_value(l.dimensions) AS dimensions,
    any_value(l.preferred) AS preferred,
    any_value(l.non_preferred) AS non_preferred,
    avg(len(cases.pairs)) AS pairs_per_case,
    avg(len(cases.ugc)) AS ugc_per_case,
    any_value(c.in_domain) AS in_domain
FROM columns AS c
JOIN cases USING (benchmark)
LEFT JOIN labels AS l USING (benchmark)
GROUP BY c.benchmark, c.position
ORDER BY c.position;
