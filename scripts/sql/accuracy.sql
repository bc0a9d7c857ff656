-- Tables 2, 4 and 5: the percentage of cases whose chosen response a judge prefers under a method's description (the
-- bracket of Eq. 5 and 6). R_format, the other factor of those rewards, is left out: any description that was parsed is
-- judged, so that methods without completions can be compared too. in_format reports it separately. Methods without
-- completions have neither format nor tokens.
-- A tie, a mean probability of exactly one half, is no win. A cell in which no case is decided has no percentage: R_gen,
-- for example, compares an empty description with itself.
-- One row per method and column; a column has one judge and one or more benchmarks.
-- Relations: judgements, methods(position, method, label, paper, reference),
--            columns(position, name, judge, benchmark, paper), paper(method, "column", percent).
SELECT
    m.label AS method,
    c.name AS "column",
    c.position AS column_position,
    list(j.benchmark || ' ' || j.case_id ORDER BY j.benchmark, j.case_id) AS cases,
    list(j.correct::DOUBLE ORDER BY j.benchmark, j.case_id) AS outcomes,
    list(j.target ORDER BY j.benchmark, j.case_id) AS targets,
    count(*) AS n,
    CASE WHEN bool_or(j.p_chosen_ab + j.p_chosen_ba <> 1) THEN 100 * avg(j.correct::DOUBLE) END AS percent,
    100 * avg(j.position_flip::DOUBLE) AS position_flip,
    100 * avg((j.unparsed = 0 AND j.p_chosen_ab + j.p_chosen_ba = 1)::DOUBLE) AS ties,
    100 * avg(j.unparsed / 2) AS unparsed,
    100 * avg(j.format_ok::DOUBLE) AS in_format,
    avg(j.completion_tokens) FILTER (j.format_ok IS NOT NULL) AS tokens,
    m.reference,
    any_value(p.percent) AS paper
FROM judgements AS j
JOIN methods AS m ON m.method = j.method
JOIN columns AS c ON c.judge = j.judge AND c.benchmark = j.benchmark
LEFT JOIN paper AS p ON p.method = m.paper AND p."column" = c.paper
GROUP BY m.position, m.label, m.reference, c.position, c.name
ORDER BY m.position, c.position;
