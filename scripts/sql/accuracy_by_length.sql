-- Accuracy by the length of a method's completions (reasoning and description), in fifths of its cases, shortest first.
-- Relations: judgements, preferences, methods(position, method, label), columns(position, name, judge, benchmark).
WITH written AS (
    SELECT
        c.position AS panel_position,
        c.name AS panel,
        m.position AS series_position,
        m.label AS series,
        p.completion_tokens AS tokens,
        j.correct,
        ntile(5) OVER (
            PARTITION BY c.position, m.position
            ORDER BY p.completion_tokens, j.benchmark, j.case_id
        ) AS fifth
    FROM judgements AS j
    JOIN methods AS m ON m.method = j.method
    JOIN columns AS c ON c.judge = j.judge AND c.benchmark = j.benchmark
    JOIN preferences AS p ON p.method = j.method AND p.benchmark = j.benchmark AND p.case_id = j.case_id
)
SELECT
    panel,
    series,
    avg(tokens) AS x,
    '' AS label,
    count(*) AS n,
    count(*) FILTER (correct) AS correct
FROM written
GROUP BY panel_position, panel, series_position, series, fifth
ORDER BY panel_position, series_position, fifth;
