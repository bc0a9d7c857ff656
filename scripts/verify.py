"""Keep the teacher's generations that earn the full reward: D_cold (Eq. 7)."""

from alignxplore import records
from alignxplore.cli import script_main
from alignxplore.cold_start import verify
from alignxplore.judging import load_judge
from alignxplore.prompts import Templates
from alignxplore.rewards import Reward


def main(snakemake):
    inputs, params = snakemake.input, snakemake.params
    generations = records.read(inputs.generations, records.GENERATION)
    examples = records.read(inputs.cold, records.EXAMPLE)
    reward = Reward(load_judge(params.judge, Templates.of_rule(inputs), snakemake.config["journal"]))
    scored, demonstrations = verify(reward, generations, examples)
    print(f"{len(demonstrations)} of {len(generations)} generations earn the full reward")
    records.write(scored, snakemake.output.scored, records.SCORED_GENERATION)
    records.write(demonstrations, snakemake.output.d_cold, records.DEMONSTRATION)


script_main(main, snakemake)  # noqa: F821
