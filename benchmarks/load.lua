-- For wrk: count answers that are not a successful probe.
local threads = {}
local ffi = require("ffi")
local zlib = nil

ffi.cdef[[
  typedef struct {
    const char *next_in; unsigned avail_in; unsigned long total_in;
    char *next_out; unsigned avail_out; unsigned long total_out;
    const char *msg; void *state; void *zalloc; void *zfree; void *opaque;
    int data_type; unsigned long adler; unsigned long reserved;
  } z_stream;
  int inflateInit2_(z_stream *stream, int bits, const char *version, int size);
  int inflate(z_stream *stream, int flush);
  int inflateEnd(z_stream *stream);
]]

local room = 65536
local buffer = ffi.new("char[?]", room)

-- Decompress a gzip body with zlib, because wrk can't.
local function unzip(body)
  zlib = zlib or ffi.load("libz.so.1")
  local stream = ffi.new("z_stream")
  stream.next_in, stream.avail_in = body, #body
  stream.next_out, stream.avail_out = buffer, room
  zlib.inflateInit2_(stream, 31, "1.2", ffi.sizeof("z_stream"))
  zlib.inflate(stream, 4)
  zlib.inflateEnd(stream)
  return ffi.string(buffer, room - stream.avail_out)
end

function setup(thread)
  table.insert(threads, thread)
end

function init()
  bad = 0
end

function response(status, headers, body)
  if body:sub(1, 2) == "\31\139" then
    body = unzip(body)
  end
  -- OpenMetrics writes a gauge of 1 as 1.0
  if status ~= 200 or not string.find(body, "\nprobe_success 1", 1, true) then
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
