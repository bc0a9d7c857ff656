"""Ask the teacher about streams step by step, and keep what earns the full reward: D_cold of updates (Eq. 7)."""

from dataclasses import replace

from alignxplore import records
from alignxplore.engines import Sampling, identity, load, model_entry
from alignxplore.judging.judge import judge_entry, load_judge
from alignxplore.judging.reward import Reward
from alignxplore.prompts import Templates
from alignxplore.training.cold_start import generate_over_steps
from alignxplore.workflow.job import script_main


def main(snakemake):
    inputs, params, config = snakemake.input, snakemake.params, snakemake.config
    steps = records.read(inputs.steps, records.EXAMPLE)
    dimensions = dict(records.read(inputs.dimensions, records.DIMENSIONS).iter_rows())
    templates = Templates.of_rule(inputs)
    engine = load(model_entry(params.model, config), config["journal"])
    judge = load_judge(judge_entry(params.judge, config), templates, config["journal"])
    if identity(params.judge["model"]) == identity(params.model):
        judge = replace(judge, engine=engine)  # one model in memory
    scored, demonstrations = generate_over_steps(
        engine,
        Reward(judge),
        templates,
        steps,
        dimensions,
        params.generations,
        Sampling(**params.sampling, seed=params.seed),
        params.prompt,
        params.answer,
        params.limit,
    )
    print(
        f"{(scored['reward'] == 1).sum()} of {len(scored)} generations earn the full reward, "
        f"{len(demonstrations)} are kept, of {demonstrations['example_id'].n_unique()} of {len(steps)} steps"
    )
    records.write(scored, snakemake.output.scored, records.SCORED_GENERATION)
    records.write(demonstrations, snakemake.output.d_cold, records.DEMONSTRATION)


script_main(main, snakemake)  # noqa: F821
