-- What the journal holds and has saved, one row per model and kind of question.
-- Parameters: files (a glob), call (the key of lines that account for one call).
WITH lines AS (
    SELECT key, record
    FROM read_json(
        $files,
        format = 'newline_delimited',
        columns = {key: 'VARCHAR', sum: 'VARCHAR', record: 'JSON'},
        ignore_errors = true,
        maximum_object_size = 1073741824
    )
    WHERE key IS NOT NULL
),
entries AS (
    SELECT
        record ->> 'model' AS model,
        CASE
            WHEN (record -> 'finish_reason') IS NOT NULL THEN 'generate'
            WHEN (record -> 'logprobs') IS NOT NULL THEN 'choice_logprobs'
            ELSE 'loglikelihood'
        END AS kind,
        count(DISTINCT key) AS entries
    FROM lines
    WHERE key <> $call AND (record -> 'plan') IS NULL
    GROUP BY ALL
),
calls AS (
    SELECT
        record ->> '$.call.model' AS model,
        record ->> '$.call.kind' AS kind,
        count(*) AS calls,
        sum((record ->> '$.call.new')::BIGINT)::BIGINT AS new,
        sum((record ->> '$.call.hits')::BIGINT)::BIGINT AS hits,
        sum((record ->> '$.call.new_tokens')::BIGINT)::BIGINT AS new_tokens,
        sum((record ->> '$.call.hit_tokens')::BIGINT)::BIGINT AS saved_tokens,
        sum((record ->> '$.call.paid_dollars')::DOUBLE) AS paid_dollars,
        sum((record ->> '$.call.saved_dollars')::DOUBLE) AS saved_dollars,
        sum((record ->> '$.call.seconds')::DOUBLE) AS seconds,
        avg(nullif((record ->> '$.call.loading')::DOUBLE, 0)) AS loading
    FROM lines
    WHERE key = $call
    GROUP BY ALL
)
SELECT
    model,
    kind,
    entries,
    calls,
    new,
    hits,
    new_tokens,
    saved_tokens,
    paid_dollars,
    saved_dollars,
    seconds,
    loading
FROM entries
FULL JOIN calls USING (model, kind)
ORDER BY model, kind;
