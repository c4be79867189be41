"""``fedpref-sim``: federations on one machine, for laptops and CI."""

from __future__ import annotations

import os

# Nothing here talks to the network: calls home are off before Flower or Ray is imported.
os.environ["FLWR_TELEMETRY_ENABLED"] = "0"
os.environ["FLWR_DISABLE_UPDATE_CHECK"] = "1"
os.environ["FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION"] = "1"
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from common.terminal import EXIT_CODES, run_command
from simulations.evaluation.command import evaluate
from simulations.questions_command import ask


class EngineName(StrEnum):
    """What carries the messages between server and regions."""

    inprocess = "inprocess"
    ray = "ray"
    flower = "flower"


class StrategyOption(StrEnum):
    """How the model is trained; see `common.strategies`."""

    factors = "factors"
    gram = "gram"
    tied_autoencoder = "tied-autoencoder"
    matrix_factorisation = "matrix-factorisation"
    sasrec = "sasrec"
    auto = "auto"


class RuleOption(StrEnum):
    """By which rule the regions' updates become one; see `common.aggregation_rules`."""

    sum = "sum"
    median = "median"
    trimmed_mean = "trimmed-mean"
    krum = "krum"
    secure_sum = "secure-sum"


class NoiseOption(StrEnum):
    """Whose noise protects the customers."""

    local = "local"
    distributed = "distributed"


class InRound(StrEnum):
    """What a region's policy does with a round under way when someone in it withdraws."""

    finish = "finish"
    discard = "discard"


app = typer.Typer(
    help="Run a federation on this machine: the same apps and engines as a deployment.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.command()
def scenarios() -> None:
    """List the scenarios."""
    from simulations.scenarios import SCENARIOS

    table = Table(box=None, header_style="dim")
    for title in ("scenario", "regions", "what it is"):
        table.add_column(title)
    for scenario in SCENARIOS.values():
        table.add_row(scenario.name, str(len(scenario.jurisdictions)), scenario.title)
    Console().print(table)


@app.command()
def run(
    scenario: Annotated[str, typer.Option(help="See `fedpref-sim scenarios`.")],
    out: Annotated[Path, typer.Option(help="The run's folder; an unfinished run there goes on.")],
    strategy: Annotated[
        StrategyOption,
        typer.Option(help="How the model is trained; auto: as the rule of public numbers says."),
    ] = StrategyOption.factors,
    epsilon: Annotated[float, typer.Option(help="ε of the run, per customer.")] = 8.0,
    delta: Annotated[float, typer.Option(help="δ of the run, a public constant.")] = 1e-6,
    epsilon_cap: Annotated[
        float | None, typer.Option(help="Each region's cap of ε per year; by default ε.")
    ] = None,
    seed: Annotated[
        int, typer.Option(min=0, help="Of initialisation and customers' choices, never of noise.")
    ] = 1,
    engine: Annotated[EngineName, typer.Option(help="What carries the messages.")] = (
        EngineName.inprocess
    ),
    refusal_share: Annotated[
        float | None, typer.Option(min=0.0, max=1.0, help="Share of customers who refuse.")
    ] = None,
    withdrawal_share: Annotated[
        float | None, typer.Option(min=0.0, max=1.0, help="Share who withdraw during the run.")
    ] = None,
    withdrawal_in_round: Annotated[
        InRound,
        typer.Option(help="The regions' policy for a round in which someone withdraws."),
    ] = InRound.finish,
    aggregation: Annotated[
        RuleOption,
        typer.Option(
            help="How the regions' updates become one: sum; median, trimmed-mean or krum against "
            "hostile regions; secure-sum, of which the server sees the sum alone."
        ),
    ] = RuleOption.sum,
    tolerated: Annotated[
        int | None,
        typer.Option(
            min=0,
            metavar="F",
            help="How many hostile regions a robust rule withstands; by default 1.",
        ),
    ] = None,
    noise: Annotated[
        NoiseOption,
        typer.Option(
            help="Whose noise protects: each region's by itself, or the sum's (secure-sum only)."
        ),
    ] = NoiseOption.local,
    server_lr_decay: Annotated[
        float,
        typer.Option(
            help="The server's learning rate is multiplied by this from round to round; not for "
            "factors and gram."
        ),
    ] = 1.0,
    patience: Annotated[
        int,
        typer.Option(
            min=0,
            metavar="ROUNDS",
            help="End the run after so many rounds in a row that tell nothing new, with the rest "
            "of the budget unspent; 0 for never. Not for factors and gram.",
        ),
    ] = 0,
    quality_seeds: Annotated[
        int, typer.Option(min=1, max=50, help="Over how many seeds quality is measured.")
    ] = 5,
    pause_after_round: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Stop in good order after this round; the same command without this option, or "
            "with a later round, goes on.",
        ),
    ] = None,
    tensorboard: Annotated[
        Path | None,
        typer.Option(
            help="TensorBoard's --logdir: rounds are written there as they go on, quality when it "
            "is measured; a finished run's too. Needs the extra `tracking`."
        ),
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Remove a finished run, or one with other settings.")
    ] = False,
) -> None:
    """Train one model across regions, verify the logs, measure quality, write the report."""
    from simulations.run import RunRequest, run_scenario

    run_scenario(
        RunRequest(
            scenario=scenario,
            out=out,
            strategy=strategy.value,
            aggregation=aggregation.value,
            tolerated=tolerated,
            noise=noise.value,
            server_learning_rate_decay=server_lr_decay,
            patience_rounds=patience,
            epsilon=epsilon,
            delta=delta,
            epsilon_cap=epsilon_cap,
            seed=seed,
            engine=engine.value,
            refusal_share=refusal_share,
            withdrawal_share=withdrawal_share,
            withdrawal_in_round=withdrawal_in_round.value,
            quality_seeds=quality_seeds,
            replace=replace,
            pause_after_round=pause_after_round,
            tensorboard=tensorboard,
        ),
        Console(highlight=False),
    )


@app.command()
def resume(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN", help="An interrupted run's folder.")],
) -> None:
    """Go on with an interrupted run, with the settings it was begun with."""
    from simulations.run import resume_scenario

    resume_scenario(run_folder, Console(highlight=False))


@app.command()
def bundle(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN", help="A finished run's folder.")],
) -> None:
    """Write a finished run's bundle and report anew from its logs, and verify it.

    For what was logged since: customers who chose, or were erased. An older bundle still verifies,
    and so do the proofs and receipts that were made from it.
    """
    from simulations.rebundle import rebundle

    rebundle(run_folder, Console(highlight=False))


@app.command()
def audit(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN", help="A finished run's folder.")],
    models: Annotated[
        int, typer.Option(min=4, max=1000, help="How many models the attacker trains.")
    ] = 64,
) -> None:
    """Attack what a finished run released, and publish in its report what was found.

    Membership inference (LiRA) against the trained model, with noise and without, and canaries
    planted in runs of its mechanisms: a lower bound on ε that must stay below the ε claimed. Models
    are trained anew on this machine; no region's budget is touched.
    """
    from simulations.rebundle import rebundle

    rebundle(run_folder, Console(highlight=False), attack_models=models)


@app.command()
def shops(
    out: Annotated[Path, typer.Argument(help="The folder to make; not there yet.")],
    seed: Annotated[int, typer.Option(min=0, help="Seed of all that is made up.")] = 1,
    port: Annotated[
        int, typer.Option(min=1, max=65_535, help="The port that regions are to connect to.")
    ] = 9443,
    admin_port: Annotated[
        int,
        typer.Option(min=1, max=65_535, help="The coordinator's port on the loopback interface."),
    ] = 9444,
) -> None:
    """Make up three shops that could found a federation: stores, answers, consents, declaration.

    What a deployment's commands need before the first of them: `fedpref-server provision`.
    """
    console = Console(highlight=False, soft_wrap=True)
    with console.status("Making up three shops …"):
        from simulations.shops import CONFIG_NAME, make_shops

        regions = make_shops(out, seed=seed, port=port, admin_port=admin_port)
    console.print(f"Declaration: {out / CONFIG_NAME}")
    for folder in regions:
        console.print(f"Answers of [bold]{folder.name}[/bold]: {out / folder.name}")


@app.command("distributed-study")
def distributed_study(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder.")],
    epsilon: Annotated[
        list[float] | None, typer.Option(help="Which ε; may be repeated. By default 8, 3 and 1.")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, max=50, help="Over how many seeds of noise.")] = 5,
) -> None:
    """Compare distributed noise with central DP training at the same σ, on a run's customers.

    Beside them: shares of noise for one and two honest regions fewer, and local noise. The run is
    only read; models are trained anew on this machine, and no region's budget is touched.
    """
    from simulations.distributed_table import study_run
    from simulations.run_folder import RunFolder

    study_run(
        RunFolder(run_folder),
        epsilons=epsilon or [8.0, 3.0, 1.0],
        seeds=seeds,
        console=Console(highlight=False),
    )


@app.command("audit-gates")
def audit_gates(
    models: Annotated[
        list[str] | None, typer.Argument(metavar="[MODEL]…", help="Which models; all by default.")
    ] = None,
) -> int:
    """Run the trainer's audit gates, and show each of them catching its planted faults.

    Exit code 0 if the real trainer passes every gate and every planted fault is caught, else 8.
    """
    from client.training.audit_gates.subjects import subjects
    from client.training.audit_gates.table import as_text, gate_table
    from common.errors import EXIT_OK, UsageError, VerificationError

    rows = gate_table(models or [])
    if not rows:
        known = ", ".join(subject.name for subject in subjects())
        raise UsageError(f"Audit gates are for {known}.", remedy="Name one of these, or none.")
    Console(highlight=False).print(as_text(rows), soft_wrap=True)
    caught = all(row.as_it_should_be for row in rows)
    return EXIT_OK if caught else VerificationError.exit_code


@app.command("attack-log")
def attack_log(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN", help="A finished run's folder.")],
) -> int:
    """Try every attack of the specification on copies of a run's evidence, and show what happens.

    The run is only read. Exit code 0 if every attack is caught, 8 if one is missed.
    """
    from common.errors import EXIT_OK, VerificationError
    from simulations.attacks.table import show_attacks
    from simulations.run_folder import RunFolder

    caught = show_attacks(RunFolder(run_folder), Console(highlight=False))
    return EXIT_OK if caught else VerificationError.exit_code


class AggregationOption(StrEnum):
    """By which rule faults are tried; see `common.aggregation_rules`."""

    sum = "sum"
    secure_sum = "secure-sum"


@app.command()
def faults(
    scenario: Annotated[str, typer.Option(help="On a slice of whose data.")] = "retail-5",
    seed: Annotated[
        int, typer.Option(min=0, help="Of all choices, and of all noise in these trials.")
    ] = 1,
    only: Annotated[
        list[str] | None,
        typer.Option(help="Only faults with this in their kind or name, such as `kill region`."),
    ] = None,
    aggregation: Annotated[
        AggregationOption, typer.Option(help="By which rule updates become one.")
    ] = AggregationOption.sum,
) -> int:
    """Kill, hang, forge, fill, tear and misdate a federation on purpose, and show what held.

    Every region's engine and the coordinator is a process of its own, on a slice of the scenario's
    data. A judge that shares no code with them reads ledgers and logs at every step. The last line
    has the count. Exit code 0 if every fault is withstood, 8 if one is not.
    """
    # One thread each, before anything that makes threads is imported: the trials fork.
    os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"
    console = Console(highlight=False)
    from common.errors import EXIT_OK, VerificationError
    from simulations.faults.matrix import MatrixRequest, run_matrix
    from simulations.scenarios import find_scenario

    request = MatrixRequest(
        find_scenario(scenario), seed, only=tuple(only or ()), rule=aggregation.value
    )
    withstood = run_matrix(request, console)
    return EXIT_OK if withstood else VerificationError.exit_code


@app.command()
def attack(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME",
            help="basket-recovery, shilling, key-substitution, unmask-twice, norm-scaling, replay, "
            "or all.",
        ),
    ],
    scenario: Annotated[str, typer.Option(help="On a slice of whose data.")] = "retail-5",
    seed: Annotated[
        int, typer.Option(min=0, help="Of all choices, and of all noise in these attacks.")
    ] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was got as JSON.")] = False,
) -> int:
    """Attack stock Flower and this system alike, and show what the attacker got from each.

    Flower is attacked by its own code: its averaging, its local noise, its SecAgg+. Engines, Flower
    nodes and attackers are a process each. Exit code 0 if every attack succeeds against Flower and
    fails here, 8 if one does not.
    """
    # One thread each, before anything that makes threads is imported: the attacks fork.
    os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"
    from common.errors import EXIT_OK, VerificationError
    from simulations.attack_demos.names import find_names
    from simulations.scenarios import find_scenario

    names, where = find_names(name), find_scenario(scenario)
    from simulations.attack_demos.table import show_demos

    holds = show_demos(
        names,
        where,
        seed=seed,
        as_json=as_json,
        console=Console(highlight=False),
    )
    return EXIT_OK if holds else VerificationError.exit_code


@app.command("attack-deployment")
def attack_deployment(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME",
            help="stolen-ca, evil-bundle, unpermitted-bundle, lowered-noise, extra-tensor, "
            "replayed-message, wrong-node-key, revoked-region, oversized-message, local-user, or "
            "all.",
        ),
    ],
    seed: Annotated[int, typer.Option(min=0, help="Of made-up data and of all choices.")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was got as JSON.")] = False,
) -> int:
    """Attack two running deployments, stock Flower's and this system's, and show what came of it.

    Both are set up on this machine, with TLS, node keys and a user of its own for every program:
    only root can do that. Exit code 0 if every attack succeeds against stock Flower, and is refused
    and on record here; 8 if one is not.
    """
    from common.errors import EXIT_OK, VerificationError
    from simulations.deployment_attacks.names import find_names

    names = find_names(name)
    from simulations.deployment_attacks.table import show_attacks

    holds = show_attacks(names, seed=seed, as_json=as_json, console=Console(highlight=False))
    return EXIT_OK if holds else VerificationError.exit_code


# Its options are many: they are beside what they ask for.
app.command()(evaluate)
app.command()(ask)


def main() -> None:
    """Runs the command line."""
    run_command(
        app,
        on_interrupt="Of a run or an evaluation nothing is lost: the same command goes on.",
    )


if __name__ == "__main__":
    main()
