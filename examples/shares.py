"""Three tenants ask for more than a GPU can serve: each gets the share of its weight. Virtual time, no event loop."""

import aps

tenants = [aps.Tenant("gold", weight=5), aps.Tenant("silver", weight=3), aps.Tenant("bronze", weight=2)]
scheduler = aps.Scheduler(tenants, devices=[aps.Device(slots=16)])

for size in range(100, 2100):  # everybody asks for the same, and for more than will be served
    for tenant in tenants:
        scheduler.submit(tenant.name, prompt_tokens=size, max_tokens=128, now=0.0)

now = 0.0
for _ in range(200):
    batch = scheduler.next_batch(now=now)
    now += 3.0  # the GPU works on the batch
    for request in batch.started:
        scheduler.settle(request, output_tokens=128, now=now)

rows = scheduler.snapshot(now=now).tenants.values()
total = sum(row.charged_tokens for row in rows)
for row in rows:
    print(f"{row.name:8} weight {row.weight:.0f}  waiting {row.waiting:4}  share {row.charged_tokens / total:6.1%}")
