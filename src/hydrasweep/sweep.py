"""A sweep from its start to its end: plan, check, and in each phase launch its workers."""

import functools
import importlib
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from hydrasweep import check, enqueue, files, output, registry, results, settings, storage, winners
from hydrasweep.agreement import agree
from hydrasweep.compose import Composer, flat
from hydrasweep.errors import Outage, UserError, plain_exit
from hydrasweep.given import Given
from hydrasweep.launch import launch, set_override
from hydrasweep.liveness import identity
from hydrasweep.monitor import Monitor
from hydrasweep.plan import Plan
from hydrasweep.processes import Processes
from hydrasweep.server import loaded_modules
from hydrasweep.space import Space
from hydrasweep.starts import CLAIM, recorded
from hydrasweep.studies import ID, RUN, RUN_URI, Studies
from hydrasweep.tracking import SweepRun
from hydrasweep.trial_runs import whole
from hydrasweep.trials import CONFIRM, FINAL, MARK, PHASES, SEARCH
from hydrasweep.worker import work_off

# Imported while the app checks the sweep.
USED_NEXT = ("optuna.storages._rdb.models", "alembic.command")
USED_WITH_MLFLOW = ("mlflow.store.tracking.sqlalchemy_store",)


class Sweep:
    """What ``HydraSweepSweeper.sweep`` runs."""

    def __init__(
        self,
        config: DictConfig,
        hydra_context: HydraContext,
        task_function: TaskFunction,
        processes: Processes,
    ) -> None:
        self.config = config
        self.settings: DictConfig = config.hydra.sweeper
        self.hydra_context = hydra_context
        self.task_function = task_function
        self.composer = Composer(hydra_context.config_loader, config)
        self.first: list[enqueue.First] = []  # what is tried first
        self.since = time.time()
        self.processes = processes
        # The app's setting that takes fresh seeds.
        self.seed = self.settings.confirm.seed if settings.confirms(self.settings) else ""

    def run(self, arguments: Sequence[str]) -> None:
        """Run the sweep that config and overrides describe, or resume it."""
        level = optuna.logging.get_verbosity()
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        try:
            with plain_exit():
                n_workers = settings.count_workers(self.settings, self.config)
                plan = self._plan(arguments)
                estimates = check.try_corners(
                    plan, self.config, self.composer, self.processes, self._import_meanwhile
                )
                n_trials = self._n_trials(plan)
                first = [line for each in self.first for line in each.told]
                if obstacle := self.processes.obstacle:
                    first.append(f"trials don't run in processes of their own: {obstacle}")
                print(output.describe(plan, self.config, n_trials, n_workers, estimates, first))
                if self.settings.dry_run or not n_trials:
                    return
            command = output.resume_command(self.config, plan.name)
            with plain_exit(command), storage.in_words():
                self._run(plan, n_workers)
        finally:
            storage.close_storages()
            optuna.logging.set_verbosity(level)

    def _import_meanwhile(self) -> None:
        """Import what this process and the trials need next, while the app checks the sweep."""
        if self.settings.dry_run:
            return
        for name in [*USED_NEXT, *(USED_WITH_MLFLOW if self.settings.mlflow else ())]:
            importlib.import_module(name)
        self.processes.import_modules(loaded_modules())

    def _plan(self, arguments: Sequence[str]) -> Plan:
        chosen = self.settings
        # Absolute, for jobs that change their working directory.
        folder = str(Path(self.config.hydra.sweep.dir).resolve())
        set_override(self.config, "hydra.sweep.dir", folder)
        searched = [f"{key}={value}" for key, value in (chosen.params or {}).items()]
        plan = Plan(
            name=settings.study_name(chosen.study_name, self._typed_name(arguments)),
            settings=chosen,
            space=Space.parse([*searched, *arguments], chosen.stratify).without(chosen.leave_out),
            storage=storage.shareable(self.config),
            parent=identity(),
            # Slurm and Ray give each worker its own.
            gpus=settings.gpus() if "n_jobs" in self.config.hydra.launcher else (),
        )
        storage.refuse_mlflows(plan.storage)
        if self.seed in {key.lstrip("+") for key in plan.space.distributions}:
            raise UserError(
                f"hydra.sweeper.confirm.seed={self.seed}: is searched; it must be free for the "
                "fresh seeds of the confirmation"
            )
        return replace(plan, given=self._given(plan))

    def _typed_name(self, arguments: Sequence[str]) -> str | None:
        """The study's name as it stands on the command line, if it does."""
        overrides: Any = OmegaConf.to_container(self.config.hydra.overrides, resolve=False)
        words = [*overrides["hydra"], *arguments]
        given = {key: text for key, _, text in (word.partition("=") for word in words)}
        key = output.name_key(self.config) or "hydra.sweeper.study_name"
        return given.get(key)

    def _given(self, plan: Plan) -> dict[str, list[Given]]:
        """The settings that each stratum tries first: those to enqueue, and a grid's points."""
        self.first = enqueue.first(plan, Path(self.config.hydra.sweep.dir))
        points = plan.space.grid() if settings.is_grid(self.settings.sampler) else []
        return {
            value: [
                *(Given(params) for each in self.first for params in each.settings.get(value, ())),
                *(Given(point, plan.space.distributions) for point in points),
            ]
            for value in plan.space.strata
        }

    def _n_trials(self, plan: Plan) -> int:
        if settings.is_grid(self.settings.sampler):
            return len(plan.space.grid()) * len(plan.space.strata)
        return int(self.settings.n_trials)

    def _run(self, plan: Plan, n_workers: int) -> None:
        folder = Path(self.config.hydra.sweep.dir)
        folder.mkdir(parents=True, exist_ok=True)
        storage.prepare(plan.storage)
        search = plan.open()
        self.processes.import_modules(loaded_modules())
        plan = check.calibrate(plan, search, self.composer, self.processes)
        self._prepare(plan, search, folder)
        n_trials, confirm, timeout = (
            self._n_trials(plan),
            self.settings.confirm,
            self.settings.timeout,
        )
        ends_with = OmegaConf.to_yaml(OmegaConf.create({"n": n_trials, "c": confirm}))
        phases = {SEARCH: search}
        if search.is_concluded(ends_with):
            phases |= {p: plan.in_phase(p, {}).open() for p in PHASES[1:] if self.seed}
            print(f"Study {plan.name} is finished: {search.n_finished()} trials.")
            print(output.summary(search, winners.winners(phases, self.seed), folder, ""))
            return
        with self._recorded(plan, search) as run:
            until = time.time() + timeout if timeout else None
            plan = replace(
                plan,
                start=search.start,
                deadline=until,
                mlflow=run.context,
                composed=self.composer.known,
            )
            self._run_phase(plan, phases, n_workers, run)
            if self.seed:
                base = int(OmegaConf.select(self.config, self.seed))
                plan = replace(plan, seconds=search.longest())
                given = winners.confirming(search, confirm, base)
                self._run_phase(plan.in_phase(CONFIRM, given), phases, n_workers, run)
                retrains = settings.retrains(self.settings)
                given = winners.finals(phases[CONFIRM], self.seed, retrains)
                plan = plan.in_phase(FINAL, given, confirm.final)
                self._run_phase(plan, phases, n_workers, run)
            self._conclude(phases, folder, run)
        if search.is_done():  # not ended by the time
            search.conclude(ends_with)

    def _prepare(self, plan: Plan, search: Studies, folder: Path) -> None:
        """Set right what an earlier start of the search left, and say what is to do."""
        record = plan.space.record()
        record |= {"hydra.sweeper.direction": ", ".join(settings.directions(self.settings))}
        record |= {"hydra.sweeper.objective": ", ".join(settings.objectives(self.settings))}
        configs = {value: check.composed(plan, value, self.composer) for value in plan.space.strata}
        free = [*self.settings.may_change, output.name_key(self.config) or ""]
        agree(search, record, configs, free)
        search.join()
        self._claim(folder, search)
        self._tell_changes(search)
        search.fill(self._n_trials(plan))
        for each in self.first:
            each.remember(search)
        kept: Any = OmegaConf.to_container(self.config, enum_to_str=True)  # no secret resolved
        kept["hydra"]["sweeper"]["study_name"] = plan.name
        for name, content in (("multirun", kept), ("environment", output.environment())):
            files.write(folder / f"{name}.yaml", OmegaConf.to_yaml(OmegaConf.create(content)))

    def _tell_changes(self, search: Studies) -> None:
        """Say in what sampler and pruner differ from the start before, which is allowed."""
        for part in ("sampler", "pruner"):
            key, now = f"{MARK}{part}", flat(self.settings[part] or OmegaConf.create())
            if changes := output.changes(search.head.user_attrs.get(key, now), now):
                print(f"{part}: {changes}")
            search.head.set_user_attr(key, now)

    def _claim(self, folder: Path, search: Studies) -> None:
        """Keep the study's id in the sweep's folder, which belongs to no other study.

        Raises:
            UserError: it does, so that its trials' files would be taken for this study's.
        """
        path, own = folder / CLAIM, search.head.user_attrs[ID]
        if path.exists() and path.read_text() != own:
            raise UserError(
                f"hydra.sweep.dir={folder}: has the trials of another study in it: give this one "
                "a folder of its own, or, if that study's database is gone, move its folder away"
            )
        files.write(path, own)

    @contextmanager
    def _recorded(self, plan: Plan, search: Studies) -> Iterator[SweepRun]:
        """The sweep's run in MLflow, closed with the status that tells how the sweep ended, which
        the sweep's folder keeps, too."""
        run, folder = SweepRun(), Path(self.config.hydra.sweep.dir)
        command = output.resume_command(self.config, plan.name)
        with recorded(folder, search.start, plan.name, command):
            if self.settings.mlflow:
                about = output.about(plan, self.settings, self._n_trials(plan))
                with search.lock:  # of several starts, one makes the run
                    run = SweepRun.open(search.head.user_attrs.get(RUN), plan.name, about)
                    search.head.set_user_attr(RUN, run.run_id)
                    search.head.set_user_attr(RUN_URI, whole(run.shown_uri))
            try:
                yield run
            except BaseException as error:
                run.end("FAILED" if isinstance(error, Exception) else "KILLED")
                raise
            run.end("FINISHED")

    def _run_phase(
        self, plan: Plan, phases: dict[str, Studies], n_workers: int, run: SweepRun
    ) -> None:
        """Have all trials of a phase done, and add its studies to ``phases``.

        Raises:
            Outage: something stopped it.
        """
        studies = phases[plan.phase] = phases.get(plan.phase) or plan.open()
        if plan.phase != SEARCH:
            studies.fill_with_given()
        studies.stop("")
        folder = Path(self.config.hydra.sweep.dir)
        write = functools.partial(results.write_all, phases, folder, plan.space.stratify, self.seed)
        with Monitor(
            studies, n_workers, write, run.log, self.settings.trial_timeout,
            self.settings.max_steps, self._n_repeats(plan.phase), self.since,
        ) as monitor:  # fmt: skip
            run.settle(studies.ended_badly())
            try:
                if settings.is_local(self.config):
                    work_off(plan, self.processes, self.composer)
                else:
                    self.processes.close()  # workers have their own
                    launch(
                        plan,
                        studies,
                        n_workers,
                        monitor.say,
                        self.config,
                        self.hydra_context,
                        self.task_function,
                    )
            finally:
                run.settle(studies.ended_badly())
        storage.check_file(plan.storage)
        if reason := studies.stop_reason():
            raise Outage(f"the sweep was stopped: {reason}")

    def _n_repeats(self, phase: str) -> int:
        """How many whole trainings of each stratum come after a phase, at least."""
        if not self.seed or phase == FINAL:
            return 0
        n_phases = (phase == SEARCH) + settings.retrains(self.settings)
        return int(self.settings.confirm.n_seeds) * n_phases

    def _conclude(self, phases: dict[str, Studies], folder: Path, run: SweepRun) -> None:
        """Keep and tell who won."""
        search, directions = phases[SEARCH], settings.directions(self.settings)
        objectives = settings.objectives(self.settings)
        found = winners.winners(phases, self.seed)
        metrics, tags = output.outcome(search, found)
        run.log(metrics)
        if FINAL in phases:
            name_key = output.name_key(self.config)
            winners.write_recipes(found, phases[FINAL], folder, name_key, self.composer)
        if self.settings.report:
            from hydrasweep import page  # only a sweep with a report needs what draws it

            page.write(folder)
        patterns = ("*.csv", "*.yaml", "report.html")
        kept = sorted(path for pattern in patterns for path in folder.glob(pattern))
        run.keep(kept, tags)
        link = run.link(search.name, objectives[0], directions[0])
        if link:
            files.write(folder / "mlflow.html", output.redirect(link))
        print(output.summary(search, found, folder, run.shown_uri if link else ""))
        print(*(f"{note}\n" for note in results.notes(search, self.settings)), sep="", end="")
        if prefix := self.settings.registered_model:
            alike = {"objective": ", ".join(objectives), "direction": ", ".join(directions)}
            alike |= {key: str(value) for key, value in self.settings.registered_tags.items()}
            told = registry.register(run, prefix, found, search.name, alike)
            print(*told, sep="\n")
        if not search.states()["COMPLETE"] and not search.states()["PRUNED"]:
            raise UserError(f"study {search.name}: no trial came to its end")
