"""What every figure of a run is: the key under which it stands, and its meaning in words."""

DEFINITIONS = {
    # groups
    "whole": "all requests of the run",
    "tenants": "each tenant's requests, by name",
    "devices": "each simulated GPU, in order",
    "by_load": "the requests by how full the system was when they came: those already there (waiting or running) over "
    "all slots",
    "by_quarter": "the requests in order of arrival, in four groups of nearly one size",
    "fairness": "who got how much of the GPUs while several wanted them",
    "level": "low: below 0.5; medium: 0.5 to 0.9; high: 0.9 and above, where waits explode",
    "quarter": "1 to 4",
    "from_s": "first arrival of the quarter, virtual seconds from the start",
    "to_s": "last arrival of the quarter, virtual seconds from the start",
    # requests
    "sent": "requests that arrived before the run stopped",
    "finished": "requests that got their whole output",
    "refused": "requests refused at once, or expired before their start, by the scheduler's reason",
    "still_waiting": "requests not started when the run stopped at its horizon",
    "still_running": "requests started and not ended when the run stopped at its horizon",
    # times
    "queue_wait_s": "arrival to the beginning of the first step that computes for the request, virtual seconds; one "
    "that still waits when the run stops counts with its wait so far, so the percentiles are then lower bounds; "
    "refused and expired ones are left out",
    "ttft_s": "time to first token: arrival to the end of the step that gives the first output token, virtual seconds; "
    "still without one when the run stops: as queue_wait_s",
    "tpot_s": "time per output token: first to last token over the tokens after the first, of finished requests with "
    "two or more, virtual seconds",
    "e2e_s": "arrival to the last token, virtual seconds; not finished when the run stops: as queue_wait_s",
    "p50": "the median; percentiles are linear between ranks",
    "p95": "95 % of the values are at most this",
    "p99": "99 % of the values are at most this",
    "mean": "arithmetic mean",
    "max": "largest value",
    # goodput
    "slo_share": "requests that finished within every bound of the SLO, over those sent; a bound not given is met, and "
    "a request of one token meets any TPOT",
    "goodput_per_s": "requests that met the SLO, over the makespan",
    "goodput_tokens_per_s": "prompt + output tokens of the requests that met the SLO, over the makespan",
    # work and money
    "weight": "the tenant's share against the other tenants' weights, as the workload gives it",
    "prompt_tokens": "prompt tokens of the requests that got a first token",
    "output_tokens": "output tokens given, those of unfinished requests too",
    "output_tokens_per_s": "output tokens over the makespan",
    "tokens_per_s": "prompt + output tokens over the makespan: throughput",
    "requests_per_s": "finished requests over the makespan",
    "dollars": "makespan x GPUs x price of a GPU-hour; a tenant's: its part of the time that all requests were in "
    "flight (first start to end)",
    "dollars_per_million_tokens": "dollars over millions of prompt + output tokens",
    "preemptions": "times that a running request was displaced",
    "recomputed_tokens": "tokens computed again after a preemption by recompute",
    "swapped_tokens": "cached tokens moved out of and into a GPU after preemptions by swap",
    "starvation_s": "the longest time in which a tenant had a request waiting while none of its requests was in flight "
    "(started and not ended), virtual seconds; of the whole: the largest of the tenants'",
    # devices
    "makespan_s": "first arrival to last end, or to the horizon when something is still there, virtual seconds",
    "busy": "part of the makespan in which a GPU runs any request, mean over the GPUs",
    "occupancy": "slots in use over slots, weighted by time over the makespan",
    "mfu": "model FLOPs utilisation: FLOPs of the tokens computed, recomputed ones left out, over the GPUs' peak; "
    "null: the profile states no FLOPs",
    "kv_use": "KV cache blocks in use over all, weighted by time over the makespan",
    "idle_slot_share": "part of the slot time left free on a running GPU while requests waited that their tenants' "
    "limits allow: what does not fit blocks it",
    "batch_size": "requests on a GPU once a batch has joined it, over batches",
    "released": "batches by why they went: continuous (at a step boundary), window (the batch window closed), fill "
    "(full enough)",
    "steps": "steps of all simulated GPUs",
    "digest": "SHA-256 of the results of all requests: equal for the same input and seed",
    # fairness
    "widest_gap": "the widest service gap: the most that a contending tenant's charged service was ahead of the least "
    "served one, in cost units of its own",
    "gap_bound": "what the widest gap can never pass: the fairness window + the largest charge; null: no bound (D = "
    "inf)",
    "gap_part": "widest gap over its bound",
    "all_wait_s": "time in which two or more tenants have requests, and each that has any has one waiting",
    "all_wait_tokens": "tokens computed for each tenant during all_wait_s, prompt and output",
    "jain_all_wait": "Jain's index (sum x)^2 / (n sum x^2) of two tenants, x: tokens computed for each during "
    "all_wait_s; raw: 1 is equal, whatever the weights. Null when more than two sent anything: some may be away in "
    "that time; the windows count those that are there",
    "weighted_jain_all_wait": "the same with x divided by the tenant's weight: 1 is as the weights say",
    "windows": "the run in windows of one length; counted are those throughout which two or more tenants have requests "
    "waiting",
    "window_s": "length of a window, virtual seconds: ten requests of each tenant end in it, on the average over the "
    "run (at most all of it); one length for all runs of a comparison",
    "number": "windows counted",
    "jain": "raw index of tokens computed in a window, over the tenants that wait throughout it",
    "weighted_jain": "the same with each one's tokens divided by its weight",
    "worst": "lowest index of a window",
    "p5": "5 % of the windows have an index below this",
    # comparisons
    "low": "the lowest over the seeds",
    "high": "the highest over the seeds",
    "ci95": "95 % confidence interval of the mean over the seeds by Student's t; null for one seed",
    "n": "seeds in which the figure is defined",
    "baseline": "the policy that the others are held against; in a difference, its mean",
    "difference": "policy - baseline on the same requests, seed by seed",
    "relative": "the figure over the baseline's of the same seed, less 1; its mean over the seeds is geometric; null "
    "unless both are above 0 in every seed",
    "throughput_lost": "1 - tokens_per_s over FIFO's on the same requests",
    "capacity_per_s": "requests/s that finish when all come at once, continuous batching",
    "offered_per_s": "arrivals over the time of the last one",
    "fraction": "offered_per_s over capacity_per_s",
}
