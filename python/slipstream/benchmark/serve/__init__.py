"""Load generator for OpenAI-compatible servers: workloads, client, driver, figures, comparison, report and plot."""

from slipstream.benchmark.serve.client import Client, Result, Target
from slipstream.benchmark.serve.compare import Arm, Plan, ratios, run_rounds
from slipstream.benchmark.serve.driver import Load, Run, run_workload
from slipstream.benchmark.serve.figures import Figures, Slo, figures_of
from slipstream.benchmark.serve.report import serve_report
from slipstream.benchmark.serve.workloads import (
    WORKLOADS,
    Conversation,
    Workload,
    make_workload,
)

__all__ = [
    "WORKLOADS",
    "Arm",
    "Client",
    "Conversation",
    "Figures",
    "Load",
    "Plan",
    "Result",
    "Run",
    "Slo",
    "Target",
    "Workload",
    "figures_of",
    "make_workload",
    "ratios",
    "run_rounds",
    "run_workload",
    "serve_report",
]
