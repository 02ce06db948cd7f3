-- wrk's script for `POST /infer`. Arguments: a file of lines "TENANT KEY", max_tokens, "true" for a stream.
local requests, at = {}, 0

function init(args)
  math.randomseed(7)
  for line in io.lines(args[1]) do
    local tenant, key = line:match("(%S+) (%S+)")
    for _ = 1, 4 do
      local body = string.format(
        '{"tenant_id": "%s", "prompt": "Why is the sky blue?", "max_tokens": %s, "bid": %d, "stream": %s}',
        tenant, args[2], math.random(1, 10), args[3])
      local headers = { ["Content-Type"] = "application/json", ["Authorization"] = "Bearer " .. key }
      requests[#requests + 1] = wrk.format("POST", "/infer", headers, body)
    end
  end
  for i = #requests, 2, -1 do
    local j = math.random(i)
    requests[i], requests[j] = requests[j], requests[i]
  end
end

function request()
  at = at % #requests + 1
  return requests[at]
end

function done(summary, latency)
  local errors = summary.errors
  io.write(string.format(
    '\n{"requests": %d, "us": %d, "failed": %d, "p50_us": %d, "p99_us": %d}\n',
    summary.requests, summary.duration, errors.connect + errors.read + errors.write + errors.status + errors.timeout,
    latency:percentile(50), latency:percentile(99)))
end
