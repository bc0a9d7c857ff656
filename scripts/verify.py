"""Keep the teacher's generations that earn the full reward: D_cold (Eq. 7)."""

from alignxplore import records
from alignxplore.judging.judge import judge_entry, load_judge
from alignxplore.judging.reward import Reward
from alignxplore.prompts import Templates
from alignxplore.training.cold_start import verify
from alignxplore.workflow.job import script_main


def main(snakemake):
    inputs, params, config = snakemake.input, snakemake.params, snakemake.config
    generations = records.read(inputs.generations, records.GENERATION)
    examples = records.read(inputs.cold, records.EXAMPLE)
    judge = load_judge(judge_entry(params.judge, config), Templates.of_rule(inputs), config["journal"])
    scored, demonstrations = verify(Reward(judge), generations, examples, params.limit)
    counts = dict(generations["finish_reason"].value_counts().iter_rows())
    print(
        f"{(scored['reward'] == 1).sum()} of {len(generations)} generations earn the full reward, "
        f"{len(demonstrations)} are kept; "
        f"{counts.get('length', 0)} were cut off, {counts.get('refused', 0)} refused"
    )
    records.write(scored, snakemake.output.scored, records.SCORED_GENERATION)
    records.write(demonstrations, snakemake.output.d_cold, records.DEMONSTRATION)


script_main(main, snakemake)  # noqa: F821
