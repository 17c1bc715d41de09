"""submitit's SLURM launcher for Hydra, whose refusals, and sbatch's, are one line."""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Sequence
from pathlib import Path

from hydra.core.utils import JobReturn
from hydra_plugins.hydra_submitit_launcher.submitit_launcher import SlurmLauncher

from halut.errors import FAULTS, report_error
from halut.training.cluster.lock import release
from halut.training.parallel.distributed import print_error

MAX_OUTPUT_LENGTH = 300
"""Characters of what sbatch or a job said."""


class Launcher(SlurmLauncher):
    """Submits every value as a job and waits. Ends with exit code 1 if jobs cannot be had."""

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        folder = self.config.hydra.sweep.dir if self.config is not None else "FOLDER"
        later = f"halut table {folder} shows what is finished"
        printed = io.StringIO()  # submitit prints what sbatch says, and raises it as well
        try:
            with contextlib.redirect_stderr(printed):
                jobs = super().launch(job_overrides, initial_job_idx)
            print(printed.getvalue(), end="", file=sys.stderr)
            return jobs
        except KeyboardInterrupt:
            print_error(f"interrupted; jobs that were submitted go on (scancel ends them); {later}")
            sys.exit(130)
        except FAULTS as error:
            report_error(error, print_error)
        except FileNotFoundError as error:
            print_error(
                f"hydra/launcher=slurm: {error.filename}: not found; is this a SLURM cluster?"
            )
        except Exception as error:  # what sbatch says comes as FailedJobError and its like
            message = " ".join(str(error).split())
            message = (
                message
                if len(message) <= MAX_OUTPUT_LENGTH
                else f"{message[:MAX_OUTPUT_LENGTH]} ..."
            )
            print_error(f"hydra/launcher=slurm: {message or type(error).__name__}; {later}")
        release(Path(folder))
        sys.exit(1)
