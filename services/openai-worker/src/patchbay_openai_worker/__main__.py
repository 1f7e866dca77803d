"""The command `patchbay-openai-worker`."""

from patchbay.worker.runtime import Worker, of_providers
from patchbay.worker.runtime import main as run_worker
from patchbay_openai_worker.providers import build

WORKER = Worker(
    service="openai-worker",
    port=lambda settings: settings.workers.openai_port,
    metrics_port=lambda settings: settings.workers.openai_metrics_port,
    make=of_providers(build),
)


def main() -> None:
    run_worker(WORKER)


if __name__ == "__main__":
    main()
