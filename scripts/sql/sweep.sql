-- A sweep's comparison: the accuracy of each method in each column by variant, and its difference to the first variant.
-- Relations: judgements(filename, …), files(variant_position, variant, method_position, method, judge, filename),
--            columns(variant, position, name, judge, benchmark).
WITH cells AS (
    SELECT
        f.variant_position,
        f.variant,
        f.method_position,
        f.method,
        c.position AS column_position,
        c.name AS "column",
        count(*) AS n,
        100 * avg(j.correct::DOUBLE) AS percent,
        list(j.benchmark || ' ' || j.case_id ORDER BY j.benchmark, j.case_id) AS cases,
        list(j.correct::DOUBLE ORDER BY j.benchmark, j.case_id) AS outcomes,
        list(j.target ORDER BY j.benchmark, j.case_id) AS targets
    FROM judgements AS j
    JOIN files AS f ON f.filename = j.filename
    JOIN columns AS c ON c.variant = f.variant AND c.judge = f.judge AND c.benchmark = j.benchmark
    GROUP BY ALL
)
SELECT
    cell.* EXCLUDE (cases),
    cell.percent - first.percent AS difference,
    first.outcomes AS first_outcomes,
    coalesce(cell.cases = first.cases, false) AS paired
FROM cells AS cell
LEFT JOIN cells AS first
    ON first.variant_position = 0 AND cell.variant_position > 0
    AND first.method_position = cell.method_position AND first."column" = cell."column"
ORDER BY cell.column_position, cell.method_position, cell.variant_position;
