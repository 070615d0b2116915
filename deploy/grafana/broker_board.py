"""The broker: what waits for whom, for how long, in which partition, and what is tried again."""

from __future__ import annotations

from parts import HERE, WORKER, Limits, Query, Row, board, chart, mean

_BACKLOG = Row(
    "What waits?",
    [
        chart(
            "Backlog in records",
            "Records that the broker has for a worker and that none has finished, as the gateway sees them.",
            "short",
            Query(f"sum by (worker) (histgen:backlog_records{{{WORKER}}})", "{{worker}}"),
            limits=Limits(100, 1000),
            runbook="HistgenLagGrows",
        ),
        chart(
            "Backlog in seconds",
            "Seconds since the oldest of these records was published.",
            "s",
            Query(f"max by (worker) (histgen:backlog_oldest_seconds{{{WORKER}}})", "{{worker}}"),
            limits=Limits(900, 3600),
            runbook="HistgenLagGrows",
        ),
        chart(
            "Backlog by partition",
            "The same records by partition: one that stays while others fall stands still.",
            "short",
            Query(
                f"max by (namespace, worker, partition) (histgen:backlog_partition_records{{{WORKER}}})",
                "{{namespace}} {{worker}} {{partition}}",
            ),
            runbook="HistgenPartitionStalled",
        ),
        chart(
            "Lag of the partitions held",
            "Uncommitted records of the partitions that each process holds, by its own account.",
            "short",
            Query(f"sum by (worker, instance) (histgen_bus_lag{{{WORKER}}})", "{{worker}} {{instance}}"),
        ),
    ],
)
_TROUBLE = Row(
    "What is tried again?",
    [
        chart(
            "Retries by code",
            "Retries per minute, by the code of what went wrong (docs/errors.md).",
            "suffix: /min",
            Query(
                f"60 * sum by (code) (rate(histgen_retries_total{{{WORKER}}}[$__rate_interval]))", "{{code}}"
            ),
            limits=Limits(1, 30),
            runbook="HistgenRetries",
        ),
        chart(
            "Set aside",
            "Records that wait for a retry while others pass them.",
            "short",
            Query(f"sum by (worker) (histgen_set_aside{{{WORKER}}})", "{{worker}}"),
            limits=Limits(1, 256),
            runbook="HistgenRetries",
        ),
        chart(
            "Set aside for",
            "Seconds since the first failure of the record that has been set aside longest.",
            "s",
            Query(f"max by (worker) (histgen_set_aside_oldest_seconds{{{WORKER}}})", "{{worker}}"),
            limits=Limits(900, 3600),
            runbook="HistgenRetries",
        ),
        chart(
            "Dependencies",
            "1 while what a service needs is available: the worst of its processes.",
            "short",
            Query(
                f"min by (worker, dependency) (histgen_dependency_up{{{HERE}}})", "{{worker}}: {{dependency}}"
            ),
            limits=Limits(1, 0.5, falling=True),
            runbook="HistgenStoreErrors",
        ),
    ],
)
_WORK = Row(
    "Who works?",
    [
        chart(
            "Jobs by outcome",
            "Jobs per hour. lost: finished, but another member had the partition by then.",
            "suffix: /h",
            Query(
                f"3600 * sum by (worker, outcome) (rate(histgen_jobs_total{{{WORKER}}}[$interval]))",
                "{{worker}} {{outcome}}",
            ),
        ),
        chart(
            "Targets that answer",
            "Processes that answer Prometheus, by job and service.",
            "short",
            Query(
                f'sum by (job, service) (up{{{HERE}, job=~"histgen(-triton|-kafka)?"}})',
                "{{job}} {{service}}",
            ),
            runbook="HistgenTargetDown",
        ),
        chart(
            "Overhead of the stream",
            "Seconds a job that were not spent in the job: broker, bookkeeping, starting a process.",
            "s",
            Query(
                mean("histgen_worker_overhead_seconds", WORKER, "worker"),
                "{{worker}}",
            ),
        ),
        chart(
            "Certificates",
            "Time until a certificate in use expires; after that, connections are refused.",
            "s",
            Query(f"min by (certificate) (histgen:certificate_left:seconds{{{HERE}}})", "{{certificate}}"),
            limits=Limits(21 * 86400, 3 * 86400, falling=True),
            runbook="HistgenCertificateExpires",
        ),
    ],
)

BOARD = board(
    "histgen-broker",
    "HistGen: broker",
    "What waits for whom, for how long, in which partition, and what is tried again.",
    [_BACKLOG, _TROUBLE, _WORK],
)
