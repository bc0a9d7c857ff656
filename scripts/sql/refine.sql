-- Refinement (paper A.1): what each form of a record's history says about its target. One row a record and form.
-- Relations: directions(number, form, position, up0, up1, down0, down1), a row for each target and interaction, with
--            its preferred (up) and non-preferred (down) dimensions as bits. Parameters: min_dimensions, history.
WITH targets AS (
    SELECT number, up0, up1, down0, down1 FROM directions WHERE form = 'target'
),
interactions AS (
    SELECT
        d.*,
        t.up0 & d.up0 AS shared_up0,
        t.up1 & d.up1 AS shared_up1,
        t.down0 & d.down0 AS shared_down0,
        t.down1 & d.down1 AS shared_down1,
        t.up0 | d.up0 AS either_up0,
        t.up1 | d.up1 AS either_up1,
        t.down0 | d.down0 AS either_down0,
        t.down1 | d.down1 AS either_down1
    FROM directions AS d
    JOIN targets AS t USING (number)
    WHERE d.form <> 'target'
),
histories AS (
    SELECT
        number,
        form,
        count(*) AS interactions,
        bit_count(bit_or(either_up0) & bit_or(either_down0)) + bit_count(bit_or(either_up1) & bit_or(either_down1))
            AS conflicts
    FROM interactions
    GROUP BY number, form
),
agreeing AS (
    SELECT *, row_number() OVER (PARTITION BY number, form ORDER BY position) AS place
    FROM interactions
    WHERE bit_count(shared_up0) + bit_count(shared_up1) + bit_count(shared_down0) + bit_count(shared_down1)
        >= $min_dimensions
),
used AS (
    SELECT
        number,
        form,
        list(position ORDER BY position) AS used,
        bit_and(shared_up0) AS up0,
        bit_and(shared_up1) AS up1,
        bit_and(shared_down0) AS down0,
        bit_and(shared_down1) AS down1
    FROM agreeing
    WHERE place <= $history
    GROUP BY number, form
)
SELECT number, form, interactions, conflicts, used, up0, up1, down0, down1
FROM histories
LEFT JOIN used USING (number, form)
ORDER BY number, form;
