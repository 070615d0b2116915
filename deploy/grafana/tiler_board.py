"""The tiler: how fast it reads and encodes tiles, where its time goes, and what it needs of the machine."""

from __future__ import annotations

from parts import HERE, WORKER, Limits, Query, Row, board, chart, mean, number

_OURS = f'{HERE}, job="histgen"'
_STAGES = f"sum by (stage) (rate(histgen_stage_seconds_sum{{{WORKER}}}[$interval]))"

_SPEED = Row(
    "How fast?",
    [
        number(
            "Tiles read per second",
            "Tiles read from slides, by all tilers, over the chosen interval.",
            "suffix: /s",
            Query(f"sum(rate(histgen_tiles_read_total{{{WORKER}}}[$interval]))", "read"),
            span=6,
        ),
        number(
            "Tiles encoded per second",
            "Tiles turned into features, by all tilers, over the chosen interval.",
            "suffix: /s",
            Query(f"sum(rate(histgen_tiles_encoded_total{{{WORKER}}}[$interval]))", "encoded"),
            span=6,
        ),
        number(
            "Jobs at work",
            "Processes with a job in hand.",
            "short",
            Query(f"sum(histgen:in_flight{{{WORKER}}})", "at work"),
            span=6,
        ),
        number(
            "Processes",
            "Tilers and reporters that answer Prometheus.",
            "short",
            Query(f'sum(up{{{_OURS}, service=~"$worker", service=~"tiler|reporter"}})', "processes"),
            runbook="HistgenTargetDown",
            span=6,
        ),
        chart(
            "Tiles per second",
            "Tiles read and encoded per second, by process.",
            "suffix: /s",
            Query(
                f"sum by (instance) (rate(histgen_tiles_read_total{{{WORKER}}}[$__rate_interval]))",
                "read, {{instance}}",
            ),
            Query(
                f"sum by (instance) (rate(histgen_tiles_encoded_total{{{WORKER}}}[$__rate_interval]))",
                "encoded, {{instance}}",
            ),
        ),
        chart(
            "Read, encode or wait",
            "Where jobs spend their time: seconds a second, by stage. wait: neither reading nor encoding.",
            "short",
            Query(_STAGES, "{{stage}}"),
            stacked=True,
        ),
        chart(
            "Seconds a job, by stage",
            "Mean seconds that a finished job spent in each stage.",
            "s",
            Query(
                mean("histgen_stage_seconds", WORKER, "stage"),
                "{{stage}}",
            ),
        ),
        chart(
            "Jobs by outcome",
            "Jobs per hour, by outcome.",
            "suffix: /h",
            Query(
                f"3600 * sum by (outcome) (rate(histgen_jobs_total{{{WORKER}}}[$interval]))", "{{outcome}}"
            ),
        ),
    ],
)
_MACHINE = Row(
    "What does it need?",
    [
        chart(
            "Memory of jobs",
            "Memory held by the processes that run jobs, which HISTGEN_MEMORY_BYTES limits.",
            "bytes",
            Query(
                f"max by (worker, instance) (histgen_job_memory_bytes{{{WORKER}}})", "{{worker}} {{instance}}"
            ),
            limits=Limits(6 * 2**30, 8 * 2**30),
        ),
        chart(
            "Memory of services",
            "Resident memory of the processes that take records and answer requests.",
            "bytes",
            Query(
                f"max by (service, instance) (process_resident_memory_bytes{{{_OURS}}})",
                "{{service}} {{instance}}",
            ),
        ),
        chart(
            "Processor time of services",
            "Cores that these processes use; jobs run in child processes and are not included.",
            "short",
            Query(
                f"sum by (service) (rate(process_cpu_seconds_total{{{_OURS}}}[$__rate_interval]))",
                "{{service}}",
            ),
        ),
        chart(
            "Restarts",
            "Processes that histgen up started again, per hour, by part and reason (on one machine only).",
            "suffix: /h",
            Query(
                f"3600 * sum by (part, why) (rate(histgen_restarts_total{{{HERE}}}[$interval]))",
                "{{part}} {{why}}",
            ),
            limits=Limits(1, 10),
        ),
        chart(
            "Disk left",
            "Share of each volume that is free: scratch, store, broker, tmp.",
            "percentunit",
            Query(f"min by (volume) (histgen:disk_free:ratio{{{HERE}}})", "{{volume}}"),
            limits=Limits(0.15, 0.05, falling=True),
            runbook="HistgenDiskLow",
        ),
        chart(
            "Disk left in bytes",
            "Bytes that can still be written, by volume.",
            "bytes",
            Query(f"min by (volume) (histgen_disk_free_bytes{{{HERE}}})", "{{volume}}"),
            runbook="HistgenDiskLow",
        ),
    ],
)

BOARD = board(
    "histgen-tiler",
    "HistGen: tiler",
    "How fast tiles are read and encoded, where the time goes, and what the machine has left.",
    [_SPEED, _MACHINE],
)
