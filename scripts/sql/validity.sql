-- Whether judges can be trusted: verdicts under descriptions that are known to be right (golden), wrong (opposite), another
-- user's (shuffled) or empty (none). One row per judge, benchmark and kind of description. longer and shorter are the
-- percentages of cases that are right among those whose chosen response has more or fewer characters than the other;
-- characters is the difference in each case. As in accuracy.sql, a tie is no win, and where no case is decided there is
-- no percentage.
-- Relations: judgements, cases, methods(position, method, kind), columns(position, judge, benchmark).
WITH verdicts AS (
    SELECT
        c.position AS row_position,
        c.judge,
        c.benchmark,
        m.position,
        m.kind,
        bool_or(j.p_chosen_ab + j.p_chosen_ba <> 1) OVER (PARTITION BY c.judge, c.benchmark, m.kind) AS decided,
        j.case_id,
        j.target,
        j.correct::DOUBLE AS correct,
        j.position_flip::DOUBLE AS position_flip,
        (j.unparsed = 0 AND j.p_chosen_ab + j.p_chosen_ba = 1)::DOUBLE AS tie,
        j.unparsed,
        length(cases.chosen) - length(cases.rejected) AS characters
    FROM judgements AS j
    JOIN methods AS m ON m.method = j.method
    JOIN columns AS c ON c.judge = j.judge AND c.benchmark = j.benchmark
    JOIN cases ON cases.benchmark = j.benchmark AND cases.case_id = j.case_id
)
SELECT
    judge,
    benchmark,
    kind,
    list(case_id ORDER BY case_id) AS cases,
    list(target ORDER BY case_id) AS targets,
    list(correct ORDER BY case_id) AS outcomes,
    list(characters ORDER BY case_id) AS characters,
    count(*) AS n,
    100 * avg(correct) FILTER (decided) AS percent,
    100 * avg(position_flip) AS position_flip,
    100 * avg(tie) AS ties,
    100 * avg(unparsed / 2) AS unparsed,
    100 * avg(correct) FILTER (decided AND characters > 0) AS longer,
    100 * avg(correct) FILTER (decided AND characters < 0) AS shorter
FROM verdicts
GROUP BY row_position, judge, benchmark, position, kind
ORDER BY row_position, benchmark, position;
