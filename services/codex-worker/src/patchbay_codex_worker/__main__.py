"""The command `patchbay-codex-worker`."""

from patchbay.worker.runtime import Worker, of_providers
from patchbay.worker.runtime import main as run_worker
from patchbay_codex_worker.providers import build

WORKER = Worker(
    service="codex-worker",
    port=lambda settings: settings.workers.codex_port,
    metrics_port=lambda settings: settings.workers.codex_metrics_port,
    make=of_providers(build),
)


def main() -> None:
    run_worker(WORKER)


if __name__ == "__main__":
    main()
