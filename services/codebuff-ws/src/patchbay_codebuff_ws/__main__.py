"""The command `patchbay-codebuff-ws`."""

from patchbay.worker.runtime import Worker
from patchbay.worker.runtime import main as run_worker
from patchbay_codebuff_ws.service import make

WORKER = Worker(
    service="codebuff-ws",
    port=lambda settings: settings.workers.codebuff_port,
    metrics_port=lambda settings: settings.workers.codebuff_metrics_port,
    make=make,
)


def main() -> None:
    run_worker(WORKER)


if __name__ == "__main__":
    main()
