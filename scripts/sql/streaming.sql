-- The table of streams: accuracy after each chunk of a stream's signals, and the tokens of the update that the chunk took.
-- One row per method, judge, benchmark and chunk; as in accuracy.sql, a tie is no win. A method that updates descriptions
-- has the tokens of all its steps on record, so those of one step are the difference from the step before. Other methods
-- read anew what they read at each step. `since_drift` counts the chunks since the preferences of a benchmark changed: 0
-- at the last chunk before, 1 at the first one after, which is the `chunk` of the relation drifts.
-- Relations: judgements, cases, preferences, methods(position, method, label),
--            columns(position, name, judge, benchmark), updating(method), drifts(benchmark, chunk).
WITH steps AS (
    SELECT *, len(chunks) AS chunk
    FROM cases
    WHERE stream <> ''
),
updates AS (
    SELECT
        p.method,
        p.benchmark,
        p.case_id,
        p.prompt_tokens - coalesce(lag(p.prompt_tokens) OVER earlier, 0) AS tokens_read,
        p.completion_tokens - coalesce(lag(p.completion_tokens) OVER earlier, 0) AS tokens_written
    FROM preferences AS p
    JOIN steps USING (benchmark, case_id)
    LEFT JOIN updating AS u ON u.method = p.method
    WHERE p.format_ok IS NOT NULL
    -- Steps of a method that does not update descriptions have no earlier ones.
    WINDOW earlier AS (
        PARTITION BY p.method, p.benchmark, steps.stream, CASE WHEN u.method IS NULL THEN p.case_id END
        ORDER BY steps.chunk
    )
)
SELECT
    m.label AS method,
    c.name || ', chunk ' || steps.chunk AS "column",
    dense_rank() OVER (ORDER BY c.position, steps.chunk) AS column_position,
    c.judge,
    c.benchmark,
    steps.chunk,
    list(j.correct::DOUBLE ORDER BY j.case_id) AS outcomes,
    list(j.target ORDER BY j.case_id) AS targets,
    count(*) AS n,
    CASE WHEN bool_or(j.p_chosen_ab + j.p_chosen_ba <> 1) THEN 100 * avg(j.correct::DOUBLE) END AS percent,
    avg(updates.tokens_read) AS tokens_read,
    avg(updates.tokens_written) AS tokens_written,
    steps.chunk - any_value(drifts.chunk) + 1 AS since_drift
FROM judgements AS j
JOIN methods AS m ON m.method = j.method
JOIN columns AS c ON c.judge = j.judge AND c.benchmark = j.benchmark
JOIN steps ON steps.benchmark = j.benchmark AND steps.case_id = j.case_id
LEFT JOIN updates ON updates.method = j.method AND updates.benchmark = j.benchmark AND updates.case_id = j.case_id
LEFT JOIN drifts ON drifts.benchmark = j.benchmark
GROUP BY m.position, m.label, c.position, c.name, c.judge, c.benchmark, steps.chunk
ORDER BY m.position, c.position, steps.chunk;
