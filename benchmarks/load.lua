-- For wrk: count the answers that are not a successful probe.
local threads = {}

function setup(thread)
  table.insert(threads, thread)
end

function init()
  bad = 0
end

function response(status, headers, body)
  if status ~= 200 or not string.find(body, "\nprobe_success 1\n", 1, true) then
    bad = bad + 1
  end
end

function done(summary)
  local wrong = 0
  for _, thread in ipairs(threads) do
    wrong = wrong + thread:get("bad")
  end
  local errors = summary.errors.connect + summary.errors.read + summary.errors.write + summary.errors.timeout
  print(string.format("RESULT requests=%d microseconds=%d wrong=%d errors=%d",
    summary.requests, summary.duration, wrong, errors))
end
