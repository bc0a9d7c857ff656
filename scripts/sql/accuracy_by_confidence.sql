-- How well a judge is calibrated: accuracy by confidence, in ten bins from 0.5 to 1. Confidence is the probability of
-- the judge's choice, averaged over both presentation orders.
-- Relations: judgements, methods(position, method, label), columns(position, name, judge, benchmark).
WITH choices AS (
    SELECT
        c.position AS panel_position,
        c.name AS panel,
        m.position AS series_position,
        m.label AS series,
        greatest((j.p_chosen_ab + j.p_chosen_ba) / 2, 1 - (j.p_chosen_ab + j.p_chosen_ba) / 2) AS confidence,
        j.correct
    FROM judgements AS j
    JOIN methods AS m ON m.method = j.method
    JOIN columns AS c ON c.judge = j.judge AND c.benchmark = j.benchmark
)
SELECT
    panel,
    series,
    avg(confidence) AS x,
    '' AS label,
    count(*) AS n,
    count(*) FILTER (correct) AS correct
FROM choices
GROUP BY panel_position, panel, series_position, series, least(floor((confidence - 0.5) * 20), 9)
ORDER BY panel_position, series_position, x;
