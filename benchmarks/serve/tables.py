"""The measurements as tables."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence

from rich.table import Table

from benchmarks.serve.report import Ceiling, LoadRow
from benchmarks.serve.rounds import BenchmarkRun


def tables(run: BenchmarkRun, ceilings: Sequence[Ceiling], rows: Sequence[LoadRow]) -> Iterator[Table]:
    """One table per part. `(!)` marks values that other processes disturbed in every round."""
    yield _service(run)
    yield _ceilings(ceilings)
    yield _loads(rows)
    yield _costs(rows)
    if any(row.share is not None for row in rows):
        yield _open(rows)


def _service(run: BenchmarkRun) -> Table:
    table = Table("service", "", show_header=False)
    table.add_row("model", f"{run.model} version {run.version}")
    table.add_row("engine", f"{run.executor}, {run.precision}, batches of up to {run.max_batch}")
    table.add_row("start to ready", f"{statistics.median(run.starts):.2f} s (median of {len(run.starts)})")
    table.add_row("memory when idle", f"{run.idle_memory.rss:.0f} MiB (PSS {run.idle_memory.pss:.0f})")
    table.add_row("CPU when idle", f"{run.idle_cpu:.2%} of one")
    return table


def _ceilings(ceilings: Sequence[Ceiling]) -> Table:
    table = Table("alone", "images/s", "ms", "CPU ms/image", "other load")
    for row in ceilings:
        table.add_row(
            row.name,
            f"{row.images_per_second:,.1f}",
            _ms(row.ms),
            _ms(row.cpu_ms),
            _others(row.other_load, row.disturbed),
        )
    return table


def _loads(rows: Sequence[LoadRow]) -> Table:
    headings = ("images/s", "ceiling", "efficiency", "p50", "p90", "p99", "p99.9", "floor", "answers", "errors")
    table = Table("load", *headings, "other load", title="Loads; latency in ms")
    for row in rows:
        table.add_row(
            row.load,
            f"{row.images_per_second:,.1f}",
            "" if row.ceiling is None else f"{row.ceiling:,.1f}",
            "" if row.efficiency is None else f"{row.efficiency:.2f}",
            *(_ms(value) for value in (row.p50, row.p90, row.p99, row.p999, row.floor)),
            str(row.answers),
            str(row.errors),
            _others(row.other_load, row.disturbed),
        )
    return table


def _costs(rows: Sequence[LoadRow]) -> Table:
    stages = list(dict.fromkeys(stage for row in rows for stage in row.stage_ms))
    headings = ("CPU ms/image", "beyond engine and decoder", "client, per request", "batch", "RSS MiB", "PSS MiB")
    table = Table("load", *headings, *stages, title="Costs; stages in ms of wall time per request")
    for row in rows:
        table.add_row(
            row.load,
            _ms(row.cpu_ms),
            _ms(row.beyond_ms),
            _ms(row.client_ms),
            f"{row.batch:.1f}",
            f"{row.rss:.0f}",
            f"{row.pss:.0f}",
            *(_ms(row.stage_ms.get(stage)) for stage in stages),
        )
    return table


def _open(rows: Sequence[LoadRow]) -> Table:
    table = Table("load", "images/s", "p99", "p99 of the queue", "ratio", "client late, p99", title="Open loops; in ms")
    for row in rows:
        if row.share is not None:
            ratio = "-" if row.tail_ratio is None else f"{row.tail_ratio:.2f}"
            table.add_row(
                row.load,
                f"{row.images_per_second:,.1f}",
                _ms(row.p99),
                _ms(row.simulated_p99),
                ratio,
                _ms(row.late_p99),
            )
    return table


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}" if abs(value) < 100 else f"{value:,.0f}"


def _others(share: float, disturbed: bool) -> str:
    return f"{share:.1%}" + (" (!)" if disturbed else "")
