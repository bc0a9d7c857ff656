-- Table 3: how often the response under one method's description beats the response under another's, a tie counting as
-- half. Also the percentages of ties, of cases in which the judge's two presentation orders disagree, and of orders in
-- which a judge that writes its verdict selected neither response. One row per ordered pair of methods and column.
-- Relations: wins, methods(position, method, label, paper), columns(position, name, benchmark, paper),
--            paper(method, "column", percent).
WITH games AS (
    SELECT
        unnest([method_a, method_b]) AS method,
        unnest([method_b, method_a]) AS opponent,
        unnest(CASE outcome WHEN 'a' THEN [1.0, 0.0] WHEN 'b' THEN [0.0, 1.0] ELSE [0.5, 0.5] END)::DOUBLE AS won,
        outcome = 'tie' AS tie,
        position_flip,
        unparsed,
        benchmark,
        case_id,
        target
    FROM wins
)
SELECT
    m.label AS method,
    o.label AS opponent,
    c.name AS "group",
    c.name || ', against ' || o.label AS "column",
    c.position * (SELECT count(*) FROM methods) + o.position AS column_position,
    list(g.benchmark || ' ' || g.case_id ORDER BY g.benchmark, g.case_id) AS cases,
    list(g.won ORDER BY g.benchmark, g.case_id) AS outcomes,
    list(g.target ORDER BY g.benchmark, g.case_id) AS targets,
    count(*) AS n,
    100 * avg(g.won) AS percent,
    100 * avg(g.tie::DOUBLE) AS ties,
    100 * avg(g.position_flip::DOUBLE) AS disagreements,
    100 * avg(g.unparsed / 2) AS unparsed,
    any_value(p.percent) AS paper
FROM games AS g
JOIN methods AS m ON m.method = g.method
JOIN methods AS o ON o.method = g.opponent
JOIN columns AS c ON c.benchmark = g.benchmark
LEFT JOIN paper AS p ON p.method = m.paper AND p."column" = c.paper || '/vs ' || o.paper
GROUP BY m.position, m.label, o.position, o.label, c.position, c.name
ORDER BY m.position, c.position, o.position;
