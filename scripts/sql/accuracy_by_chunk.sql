-- Accuracy after each chunk of the streams.
-- Relations: judgements, cases, methods(position, method, label), columns(position, name, judge, benchmark).
SELECT
    c.name AS panel,
    m.label AS series,
    len(cases.chunks)::DOUBLE AS x,
    '' AS label,
    count(*) AS n,
    count(*) FILTER (j.correct) AS correct
FROM judgements AS j
JOIN methods AS m ON m.method = j.method
JOIN columns AS c ON c.judge = j.judge AND c.benchmark = j.benchmark
JOIN cases ON cases.benchmark = j.benchmark AND cases.case_id = j.case_id
WHERE cases.stream <> ''
GROUP BY c.position, c.name, m.position, m.label, x
ORDER BY c.position, m.position, x;
