"""Cases of the alerts in k8s/base/monitoring/rules.yaml, as series for promtool."""

from __future__ import annotations

RUN = 'run="r",stage="rlvr",step="rlvr"'
PUSHED = 'job="omnicore",stage="rlvr",step="rlvr"'
ALL = 'modality="all"'
POD = f'pod="p",{RUN}'
NEXT = f'pod="q",{RUN}'  # replaces the first pod of the run
ACTIVE = f"omni_training_active{{{RUN}}}"
TOKENS = f"omni_tokens_total{{{RUN}}}"
STEPPED = f"omni_training_step_timestamp_seconds{{{RUN}}}"
TOOK = f"omni_training_step_duration_seconds{{{RUN}}}"
SAVED = f"omni_checkpoint_saved_timestamp_seconds{{{RUN}}}"
UP = 'up{job="omnicore/omnicore-trainjob",pod="p",run="r"}'
ADMITTED = 'kueue_admitted_active_workloads{cluster_queue="omnicore"}'
DROP = {
    TOKENS: "0+60000x60 3600000+6000x300",
    ACTIVE: "1x400",
}  # an hour of 60,000 tokens a minute, then a tenth
STEPS = f"omni_training_steps{{{RUN}}}"
SAVING = {STEPS: "0+1x30 30x130", STEPPED: "0+60x30 1800x130", TOOK: "60x160", ACTIVE: "1x30 0x130"}
SLOW = {
    STEPS: "1x30 2x75 3x20",
    STEPPED: "1800x30 3600x75 8100x20",
    TOOK: "1800x130",
    ACTIVE: "1x130",
}


def bursts(minutes: int, tokens: int, times: int) -> str:
    """Return a counter that grows by `tokens` every `minutes`, `times` times."""
    return " ".join(f"{number * tokens}x{minutes - 1}" for number in range(times))


# Alert, series with one value a minute, time of evaluation, whether it fires. `_` is a missing sample, `stale` the end
# of a pod.
CASES: list[tuple[str, dict[str, str], str, bool]] = [
    ("RewardCollapse", {f"omni_reward{{{RUN},{ALL}}}": "0.8x60 0.2x60"}, "90m", True),
    ("RewardCollapse", {f"omni_reward{{{RUN},{ALL}}}": "0.8x60 0.6x60"}, "90m", False),
    ("RewardCollapse", {f"omni_reward{{{RUN},{ALL}}}": "0.08x60 0.02x60"}, "90m", False),
    ("RewardCollapse", {f"omni_reward{{{PUSHED},{ALL}}}": "0.8x60 0.2x60"}, "90m", False),
    # A young run, a gap, a new pod that resumes at the same reward, the end of a run.
    ("RewardCollapse", {f"omni_reward{{{RUN},{ALL}}}": "0.8x5 0.2x20"}, "25m", True),
    ("RewardCollapse", {f"omni_reward{{{RUN},{ALL}}}": "0.2x20"}, "20m", False),
    ("RewardCollapse", {f"omni_reward{{{RUN},{ALL}}}": "0.8x60 _x30 0.7x30"}, "110m", False),
    (
        "RewardCollapse",
        {
            f"omni_reward{{{POD},{ALL}}}": "0.8x60 stale",
            f"omni_reward{{{NEXT},{ALL}}}": "_x70 0.7x30",
        },
        "95m",
        False,
    ),
    ("RewardCollapse", {f"omni_reward{{{RUN},{ALL}}}": "0.8x60 0.2x10 stale"}, "90m", False),
    ("KLBlowUp", {f"omni_kl_nats{{{RUN},{ALL}}}": "0.1x30 0.9x60"}, "60m", True),
    ("KLBlowUp", {f"omni_kl_nats{{{RUN},{ALL}}}": "0.1x90"}, "60m", False),
    ("KLBlowUp", {f"omni_kl_nats{{{RUN},{ALL}}}": "0.1x30 0.9x5 0.1x60"}, "60m", False),
    # From the first step on, over a gap of one scrape, after a restart near the start model, at the end of a run.
    ("KLBlowUp", {f"omni_kl_nats{{{RUN},{ALL}}}": "0.9x15"}, "12m", True),
    ("KLBlowUp", {f"omni_kl_nats{{{RUN},{ALL}}}": "0.9x5 _ 0.9x15"}, "12m", True),
    ("KLBlowUp", {f"omni_kl_nats{{{RUN},{ALL}}}": "0.9x8 stale _x5 0.1x30"}, "25m", False),
    ("KLBlowUp", {f"omni_kl_nats{{{RUN},{ALL}}}": "0.9x8 stale"}, "15m", False),
    ("EntropyCollapse", {f"omni_entropy_nats{{{RUN},{ALL}}}": "1x60 0.05x60"}, "90m", True),
    ("EntropyCollapse", {f"omni_entropy_nats{{{RUN},{ALL}}}": "1x60 0.3x60"}, "90m", False),
    ("EntropyCollapse", {f"omni_entropy_nats{{{RUN},{ALL}}}": "1x5 0.05x20"}, "25m", True),
    (
        "EntropyCollapse",
        {f"omni_entropy_nats{{{RUN},{ALL}}}": "0.05x60"},
        "50m",
        False,
    ),  # always: as a model that is sure
    ("EntropyCollapse", {f"omni_entropy_nats{{{RUN},{ALL}}}": "1x60 _x30 0.05x20"}, "112m", True),
    ("EntropyCollapse", {f"omni_entropy_nats{{{RUN},{ALL}}}": "1x60 0.05x10 stale"}, "90m", False),
    (
        "EntropyCollapse",
        {f'omni_entropy_nats{{run="r",stage="sft",step="sft",{ALL}}}': "1x60 0.05x60"},
        "90m",
        False,
    ),
    ("ThroughputDrop", {TOKENS: "0+6000x300 1800000+600x90", ACTIVE: "1x400"}, "380m", True),
    ("ThroughputDrop", {TOKENS: "0+6000x390", ACTIVE: "1x400"}, "380m", False),
    (
        "ThroughputDrop",
        {TOKENS: "0+6000x300 stale _x90", ACTIVE: "1x300 stale _x90"},
        "328m",
        False,
    ),
    # A young run: it fires within an hour of the drop, and for as long as it lasts.
    ("ThroughputDrop", DROP, "120m", True),
    ("ThroughputDrop", DROP, "350m", True),
    ("ThroughputDrop", {TOKENS: "0+60000x10 600000+6000x300", ACTIVE: "1x400"}, "90m", True),
    (
        "ThroughputDrop",
        {TOKENS: "0+60000x60 3600000+6000x15 3690000+60000x60", ACTIVE: "1x400"},
        "110m",
        False,
    ),
    ("ThroughputDrop", {TOKENS: "0+60000x20", ACTIVE: "1x20"}, "15m", False),
    # The result is saved, for as long as it takes.
    ("ThroughputDrop", {TOKENS: "0+60000x60 3600000x90", ACTIVE: "1x60 0x90"}, "140m", False),
    # Restarts: in the same pod the counter begins again, in another there is another one.
    (
        "ThroughputDrop",
        {TOKENS: "0+60000x60 stale _x10 0+60000x90", ACTIVE: "1x60 stale _x10 1x90"},
        "110m",
        False,
    ),
    ("ThroughputDrop", {TOKENS: "0+60000x60 0+60000x90", ACTIVE: "1x160"}, "100m", False),
    ("ThroughputDrop", {TOKENS: "0+60000x60 0+6000x90", ACTIVE: "1x160"}, "140m", True),
    *(
        (
            "ThroughputDrop",
            {
                f"omni_tokens_total{{{POD}}}": "0+60000x60 stale",
                f"omni_training_active{{{POD}}}": "1x60 stale",
                f"omni_tokens_total{{{NEXT}}}": f"_x{60 + gap} 0+{tokens}x120",
                f"omni_training_active{{{NEXT}}}": f"_x{60 + gap} 1x120",
            },
            f"{60 + gap + after}m",
            fires,
        )
        for gap in (5, 29, 120)
        for tokens, after, fires in ((60000, 30, False), (60000, 60, False), (6000, 110, True))
    ),
    # Nothing is scraped for twenty minutes.
    (
        "ThroughputDrop",
        {TOKENS: "0+60000x60 _x20 4860000+60000x60", ACTIVE: "1x60 _x20 1x60"},
        "100m",
        False,
    ),
    # Steps of a quarter of an hour to two hours count their tokens in bursts.
    *(
        (
            "ThroughputDrop",
            {
                TOKENS: bursts(minutes, 60000 * minutes, 12),
                ACTIVE: "1x2000",
                TOOK: f"{minutes * 60}x2000",
            },
            f"{minutes * 8 + at}m",
            False,
        )
        for minutes in (15, 20, 25, 40, 55, 60, 120)
        for at in (1, 14, 29, 39, 54, 59)
    ),
    ("TrainingStalled", {STEPPED: "0+60x30 1800x60", TOOK: "60x90", ACTIVE: "1x90"}, "75m", True),
    ("TrainingStalled", {STEPPED: "0+60x30 1800x60", TOOK: "60x90", ACTIVE: "1x90"}, "65m", False),
    ("TrainingStalled", {STEPPED: "0+60x90", TOOK: "60x90", ACTIVE: "1x90"}, "85m", False),
    (
        "TrainingStalled",
        {STEPPED: "0+60x60 stale", TOOK: "60x60 stale", ACTIVE: "1x60 stale"},
        "120m",
        False,
    ),
    (
        "TrainingStalled",
        {f"omni_training_step_timestamp_seconds{{{PUSHED}}}": "0x90"},
        "85m",
        False,
    ),
    # No first step yet: it may have to compile.
    ("TrainingStalled", {STEPPED: "0x130", ACTIVE: "1x130"}, "125m", True),
    ("TrainingStalled", {STEPPED: "0x130", ACTIVE: "1x130"}, "115m", False),
    # The result is saved for 45 minutes and longer.
    ("TrainingStalled", SAVING, "75m", False),
    ("TrainingStalled", SAVING, "150m", False),
    # Steps of half an hour, one of which takes an hour and a quarter, and one that does not end.
    ("TrainingStalled", SLOW, "104m", False),
    (
        "TrainingStalled",
        {STEPPED: "1800x30 3600x130", TOOK: "1800x160", ACTIVE: "1x160"},
        "155m",
        True,
    ),
    # A gap, a restart, and a pod that hangs after another one was lost.
    (
        "TrainingStalled",
        {STEPPED: "0+60x30 _x30 3600+60x30", TOOK: "60x30 _x30 60x30", ACTIVE: "1x30 _x30 1x30"},
        "62m",
        False,
    ),
    (
        "TrainingStalled",
        {STEPPED: "0+60x30 _x90 7200+60x30", TOOK: "60x30 _x90 60x30", ACTIVE: "1x30 _x90 1x30"},
        "122m",
        False,
    ),
    *(
        (
            "TrainingStalled",
            {
                f"omni_training_step_timestamp_seconds{{{POD}}}": "0+60x30 stale",
                f"omni_training_step_duration_seconds{{{POD}}}": "60x30 stale",
                f"omni_training_active{{{POD}}}": "1x30 stale",
                f"omni_training_step_timestamp_seconds{{{NEXT}}}": "_x50 3000x60",
                f"omni_training_active{{{NEXT}}}": "_x50 1x60",
            },
            at,
            fires,
        )
        for at, fires in (("85m", False), ("95m", True))
    ),
    # A target that is down for ever, from the start or later; one that comes back; pods of tasks, which outlive their process.
    ("MetricsDown", {UP: "0x30"}, "20m", True),
    ("MetricsDown", {UP: "1x30 0x20"}, "50m", True),
    ("MetricsDown", {UP: "1x30 0x10 1 0x10"}, "50m", False),
    (
        "MetricsDown",
        {UP: "1x30 0x10 stale", 'up{job="omnicore/omnicore-runner",pod="t",run="r"}': "0x90"},
        "80m",
        False,
    ),
    ("MetricsDown", {UP: "1x30 stale"}, "90m", False),
    # Jobs run, and no target is known of; with a target, or none that runs.
    ("MetricsDown", {ADMITTED: "2x90"}, "70m", True),
    (
        "MetricsDown",
        {ADMITTED: "2x90", 'up{job="omnicore/omnicore-pushgateway"}': "1x90"},
        "70m",
        True,
    ),
    ("MetricsDown", {ADMITTED: "2x40 0x50"}, "70m", False),
    ("MetricsDown", {ADMITTED: "2x90", UP: "_x30 1x60"}, "80m", False),
    (
        "MetricsDown",
        {ADMITTED: "2x90", 'up{job="omnicore/omnicore-serving",pod="p"}': "1x90"},
        "80m",
        False,
    ),
    ("NaNLoss", {f"omni_training_loss{{{PUSHED}}}": "NaN NaN NaN"}, "2m", True),
    ("NaNLoss", {f"omni_training_loss{{{RUN}}}": "2 Inf Inf"}, "2m", True),
    (
        "NaNLoss",
        {f"omni_training_loss{{{PUSHED}}}": "2x3", f"omni_training_loss{{{RUN}}}": "1x3"},
        "2m",
        False,
    ),
    ("NaNLoss", {f"omni_training_loss{{{RUN}}}": "2 -Inf _"}, "2m", True),
    (
        "NaNLoss",
        {f"omni_training_loss{{{PUSHED}}}": "NaN 2 2"},
        "2m",
        False,
    ),  # the next training of the stage ended well
    ("NaNLoss", {f"omni_training_loss{{{RUN}}}": "2 NaN stale"}, "2m", False),
    ("CheckpointStale", {SAVED: "0x200", ACTIVE: "1x200"}, "150m", True),
    ("CheckpointStale", {SAVED: "3600x200", ACTIVE: "1x200"}, "150m", False),
    ("CheckpointStale", {SAVED: "0x200", ACTIVE: "1x100 0x100"}, "150m", False),  # the loop is over
    (
        "CheckpointStale",
        {SAVED: "0x60 stale _x60 7200x60", ACTIVE: "1x60 stale _x60 1x60"},
        "150m",
        False,
    ),  # a restart
    (
        "CheckpointStale",
        {SAVED: "0x100 _x40 7200x60", ACTIVE: "1x100 _x40 1x60"},
        "150m",
        False,
    ),  # a gap
    (
        "CheckpointStale",
        {f"omni_checkpoint_saved_timestamp_seconds{{{PUSHED}}}": "0x200"},
        "150m",
        False,
    ),
    ("CanaryFailed", {f'omni_canary_passed{{{PUSHED},kind="audio"}}': "0x10"}, "5m", True),
    ("CanaryFailed", {f"omni_canary_agreement_ratio{{{RUN}}}": "0.5x10"}, "5m", True),
    ("CanaryFailed", {f'omni_canary_passed{{{RUN},kind="audio"}}': "0 1x10"}, "5m", False),
    (
        "CanaryFailed",
        {f'omni_canary_passed{{{PUSHED},kind="audio"}}': "0x5 1x5"},
        "9m",
        False,
    ),  # the next step passed
    ("CanaryFailed", {f'omni_canary_passed{{{RUN},kind="audio"}}': "0 stale"}, "3m", False),
    ("CanaryFailed", {'omni_serve_canary_passed{pod="p",kind="image"}': "0x10"}, "5m", True),
    ("NoAnswerShare", {f'omni_no_answer_ratio{{{PUSHED},view="clean"}}': "0.5x30"}, "20m", True),
    ("NoAnswerShare", {f"omni_rollouts_no_answer_ratio{{{RUN},{ALL}}}": "0.5x30"}, "20m", True),
    ("NoAnswerShare", {f'omni_no_answer_ratio{{{PUSHED},view="clean"}}': "0.1x30"}, "20m", False),
    (
        "NoAnswerShare",
        {f"omni_rollouts_no_answer_ratio{{{RUN},{ALL}}}": "0.5x5 0.1x25"},
        "20m",
        False,
    ),  # a young policy
    (
        "NoAnswerShare",
        {f"omni_rollouts_no_answer_ratio{{{RUN},{ALL}}}": "0.5x8 stale"},
        "20m",
        False,
    ),
    (
        "NoAnswerShare",
        {f"omni_rollouts_no_answer_ratio{{{RUN},{ALL}}}": "0.5x5 _ 0.5x25"},
        "20m",
        True,
    ),
    ("EngineErrors", {f"omni_engine_error_ratio{{{PUSHED}}}": "0.05x30"}, "20m", True),
    (
        "EngineErrors",
        {
            f"omni_engine_retries_total{{{RUN}}}": "0+30x30",
            f"omni_samples_total{{{RUN}}}": "0+60x30",
        },
        "20m",
        True,
    ),
    (
        "EngineErrors",
        {
            f"omni_engine_retries_total{{{RUN}}}": "0+1x30",
            f"omni_samples_total{{{RUN}}}": "0+60x30",
            f"omni_engine_error_ratio{{{RUN}}}": "0.001x30",
        },
        "20m",
        False,
    ),
    # A server that has never answered; a restart of both counters; one that was down at the start alone.
    ("EngineErrors", {f"omni_engine_retries_total{{{RUN}}}": "0+30x30"}, "20m", True),
    (
        "EngineErrors",
        {
            f"omni_engine_retries_total{{{RUN}}}": "0+1x10 0+1x20",
            f"omni_samples_total{{{RUN}}}": "0+60x10 0+60x20",
        },
        "20m",
        False,
    ),
    (
        "EngineErrors",
        {
            f"omni_engine_retries_total{{{RUN}}}": "0+30x3 90x27",
            f"omni_samples_total{{{RUN}}}": "_x3 0+60x27",
        },
        "25m",
        False,
    ),
    (
        "EvalRegression",
        {f'omni_promotion_difference_ratio{{{PUSHED},bound="high"}}': "-0.02x3"},
        "2m",
        True,
    ),
    (
        "EvalRegression",
        {
            f'omni_promotion_difference_ratio{{{PUSHED},bound="high"}}': "0.02x3",
            f'omni_promotion_difference_ratio{{{PUSHED},bound="low"}}': "-0.04x3",
        },
        "2m",
        False,
    ),
    (
        "EvalRegression",
        {f'omni_promotion_difference_ratio{{{PUSHED},bound="high"}}': "-0.02 0.01 0.01"},
        "2m",
        False,
    ),
    (
        "EvalRegression",
        {f'omni_promotion_difference_ratio{{{PUSHED},bound="high"}}': "NaN NaN NaN"},
        "2m",
        False,
    ),
    (
        "QueueBacklog",
        {'kueue_pending_workloads{cluster_queue="omnicore",status="active"}': "2x30 _x3 2x60"},
        "80m",
        True,
    ),
    (
        "QueueBacklog",
        {
            'vllm:num_requests_waiting{pod="p"}': "100x8 stale",
            'omni_serve_requests_waiting{pod="q"}': "_x8 100x5",
        },
        "15m",
        False,
    ),
    (
        "QueueBacklog",
        {'kueue_pending_workloads{cluster_queue="omnicore",status="active"}': "2x90"},
        "80m",
        True,
    ),
    ("QueueBacklog", {'vllm:num_requests_waiting{pod="p"}': "100x30"}, "20m", True),
    ("QueueBacklog", {'omni_serve_requests_waiting{pod="p"}': "100x30"}, "20m", True),
    (
        "QueueBacklog",
        {
            'kueue_pending_workloads{cluster_queue="omnicore",status="active"}': "2x30 0x60",
            'kueue_pending_workloads{cluster_queue="other",status="active"}': "2x90",
            'vllm:num_requests_waiting{pod="p"}': "3x90",
        },
        "80m",
        False,
    ),
]
