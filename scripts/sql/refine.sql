-- Refinement (paper A.1): what each form of a record's history says about its target, one row per record and form.
-- Relations:  interactions(number, form, position): every interaction with text;
--             signs(number, form, position, dimension, sign): the directions that are not neutral, of all interactions
--             and, with form 'target', of the targets.
-- Parameters: min_dimensions, history.
WITH shared AS ( -- where an interaction agrees with its target
    SELECT said.number, said.form, said.position, said.dimension, said.sign
    FROM signs AS said
    JOIN signs AS target USING (number, dimension, sign)
    WHERE said.form <> 'target' AND target.form = 'target'
),
used AS ( -- the first interactions that agree on enough dimensions
    SELECT number, form, position
    FROM shared
    GROUP BY number, form, position
    HAVING count(*) >= $min_dimensions
    QUALIFY row_number() OVER (PARTITION BY number, form ORDER BY position) <= $history
),
consistent AS ( -- dimensions on which all of these agree
    SELECT number, form, dimension, sign
    FROM shared
    JOIN used USING (number, form, position)
    GROUP BY number, form, dimension, sign
    HAVING count(*) = $history
),
histories AS (
    SELECT number, form, count(*) AS interactions
    FROM interactions
    GROUP BY number, form
),
conflicts AS ( -- dimensions on which a history and its target hold both signs
    SELECT histories.number, histories.form, dimension
    FROM histories
    JOIN signs ON signs.number = histories.number AND signs.form IN (histories.form, 'target')
    GROUP BY histories.number, histories.form, dimension
    HAVING min(sign) <> max(sign)
)
SELECT
    number,
    form,
    interactions,
    coalesce(n_conflicts, 0) AS conflicts,
    positions AS used,
    dimensions,
    signs
FROM histories
LEFT JOIN (
    SELECT number, form, count(*) AS n_conflicts FROM conflicts GROUP BY number, form
) USING (number, form)
LEFT JOIN (
    SELECT number, form, list(position ORDER BY position) AS positions FROM used GROUP BY number, form
) USING (number, form)
LEFT JOIN (
    SELECT number, form, list(dimension ORDER BY dimension) AS dimensions, list(sign ORDER BY dimension) AS signs
    FROM consistent
    GROUP BY number, form
) USING (number, form)
ORDER BY number, form;
