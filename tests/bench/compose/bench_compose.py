"""How long a Compose file of 200 services takes from text to specs, in seconds of the processor.

Run: python tests/bench/compose/bench_compose.py
"""

from __future__ import annotations

import statistics
import sys
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[3])]

from swarmpy.compose import Document, read_stack, runnable  # noqa: E402

SERVICES = 200
ROUNDS = 15
LIMIT_S = 0.5

SERVICE = """
  service-{number}:
    <<: *common
    image: registry.example/team/app-{number}:${{TAG:-1.0}}
    command: ["serve", "--port", "80"]
    environment:
      <<: *environment
      NUMBER: {number}
      DATABASE: postgres://${{DB_USER:-app}}@db/app-{number}
    ports: ["{port}:80"]
    networks: [front, back]
    volumes: ["data-{number}:/data", "/etc/localtime:/etc/localtime:ro"]
    secrets: [key]
    healthcheck: {{test: curl -f http://localhost/, interval: 10s, timeout: 2s, retries: 3}}
    deploy:
      replicas: 3
      labels: ["traefik.enable=true", "traefik.http.routers.r{number}.rule=Host(`app-{number}.example`)"]
      placement: {{constraints: ["node.labels.zone == a"], preferences: [{{spread: node.labels.rack}}]}}
      resources: {{limits: {{cpus: "0.5", memory: 256M}}, reservations: {{memory: 64M}}}}
      restart_policy: {{condition: on-failure, delay: 5s, max_attempts: 3}}
      update_config: {{parallelism: 1, delay: 10s, order: start-first, failure_action: rollback}}
"""


def document() -> str:
    head = (
        "x-common: &common\n  user: app\n  read_only: true\n"
        "x-environment: &environment\n  LEVEL: info\n  ZONE: ${ZONE:-none}\nservices:"
    )
    services = "".join(SERVICE.format(number=n, port=10_000 + n) for n in range(SERVICES))
    volumes = "".join(f"  data-{n}: \n" for n in range(SERVICES))
    tail = f"networks: {{front: , back: }}\nsecrets: {{key: {{external: true}}}}\nvolumes:\n{volumes}"
    return head + services + tail


def main() -> int:
    text = document()
    samples = []
    for _ in range(ROUNDS):
        started_at = time.process_time()
        stack = runnable(read_stack([Document("stack.yml", text)], name="st", variables={"TAG": "2"}))
        samples.append(time.process_time() - started_at)
        assert len(stack.services) == SERVICES
    median = statistics.median(samples)
    print(
        f"{SERVICES} services, {text.count(chr(10))} lines: median {median * 1e3:.0f} ms   "
        f"worst {max(samples) * 1e3:.0f} ms   (limit {LIMIT_S * 1e3:.0f} ms)"
    )
    return 0 if median <= LIMIT_S else 1


if __name__ == "__main__":
    sys.exit(main())
