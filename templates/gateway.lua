-- The gateway's one script: reads the request body once and says, in headers that Envoy's own
-- routing understands, which model is asked for and (when a service wants it) which prompt it
-- starts with. Everything else (keys, limits, choice of replica, retries) is Envoy's.
--
-- In:  the request after key check and rate limit; the constants that the renderer puts above
--      this text: AFFINITY (boolean), HEAD_BYTES (bytes of a message that identify it).
-- Out: x-enova-model and x-enova-prefix for the router, model and stream for the access log,
--      or an answer 400/415 whose text Envoy wraps into OpenAI's error form.
--
-- It does not parse JSON: it walks over the top level of one object, jumping over nested values,
-- so `"model"` inside a prompt or a nested object is never taken for the model. Full validation
-- is the engine's. Cost is linear in the body, one pass, no copies but the wanted values.

local byte, find, sub, char = string.byte, string.find, string.sub, string.char
local bxor, lshift, tobit = bit.bxor, bit.lshift, bit.tobit

local QUOTE, BACKSLASH, COMMA, COLON = 34, 92, 44, 58
local OPEN_LIST, CLOSE_LIST, OPEN_OBJECT, CLOSE_OBJECT = 91, 93, 123, 125
local WANTED = { model = true, stream = true, messages = true, prompt = true, input = true,
                 role = true }
local MAY_BEGIN = { [BACKSLASH] = true }
for name in pairs(WANTED) do MAY_BEGIN[byte(name)] = true end
local LONGEST_KEY = 48     -- every wanted key and role fits, even written with \u escapes
local LONGEST_MODEL = 256
local LONGEST_ESCAPE = 6   -- bytes that one byte of a model's name may be written with
local MOST_MESSAGES = 16   -- leading messages that may identify a conversation

-- The first position at or after `at` that is not JSON white space.
local function after_space(text, at)
  while true do
    local c = byte(text, at)
    if c ~= 32 and c ~= 10 and c ~= 13 and c ~= 9 then return at end
    at = at + 1
  end
end

-- The closing quote of the string that opens at `open`, nil when it never closes.
local function string_end(text, open)
  local from = open + 1
  while true do
    local quote = find(text, '"', from, true)
    if not quote then return nil end
    local before = quote - 1
    while byte(text, before) == BACKSLASH do before = before - 1 end
    if (quote - before) % 2 == 1 then return quote end
    from = quote + 1
  end
end

-- The bracket that closes the list or object that opens at `open`, nil when none does.
local function container_end(text, open)
  local depth, at = 1, open + 1
  while true do
    local c = byte(text, at)
    if c == nil then return nil end
    if c == QUOTE then
      at = string_end(text, at)
      if not at then return nil end
    elseif c == OPEN_OBJECT or c == OPEN_LIST then
      depth = depth + 1
    elseif c == CLOSE_OBJECT or c == CLOSE_LIST then
      depth = depth - 1
      if depth == 0 then return at end
    end
    at = at + 1
  end
end

-- The last byte of the value that begins at `at`, nil when there is no value.
local function value_end(text, at)
  local c = byte(text, at)
  if c == QUOTE then return string_end(text, at) end
  if c == OPEN_OBJECT or c == OPEN_LIST then return container_end(text, at) end
  local from = at
  while c and c ~= COMMA and c ~= CLOSE_OBJECT and c ~= CLOSE_LIST and c > 32 do
    at = at + 1
    c = byte(text, at)
  end
  if at == from then return nil end
  return at - 1
end

local function utf8(code)
  if code < 0x80 then return char(code) end
  if code < 0x800 then return char(0xC0 + math.floor(code / 64), 0x80 + code % 64) end
  if code < 0x10000 then
    return char(0xE0 + math.floor(code / 4096), 0x80 + math.floor(code / 64) % 64,
                0x80 + code % 64)
  end
  return char(0xF0 + math.floor(code / 262144), 0x80 + math.floor(code / 4096) % 64,
              0x80 + math.floor(code / 64) % 64, 0x80 + code % 64)
end

local PLAIN = { ['"'] = '"', ['\\'] = '\\', ['/'] = '/', b = '\b', f = '\f', n = '\n', r = '\r',
                t = '\t' }

-- The characters a JSON string stands for, given what is between its quotes; nil when an escape
-- is not one. Some clients write "org\/name".
local function unescaped(raw)
  if not find(raw, '\\', 1, true) then return raw end
  local out, at = {}, 1
  while at <= #raw do
    local slash = find(raw, '\\', at, true)
    if not slash then
      out[#out + 1] = sub(raw, at)
      break
    end
    out[#out + 1] = sub(raw, at, slash - 1)
    local kind = sub(raw, slash + 1, slash + 1)
    if kind == 'u' then
      local code = tonumber(string.match(raw, '^%x%x%x%x', slash + 2) or '', 16)
      if not code then return nil end
      at = slash + 6
      if code >= 0xDC00 and code < 0xE000 then return nil end
      if code >= 0xD800 and code < 0xDC00 then
        local low = tonumber(string.match(raw, '^\\u(%x%x%x%x)', at) or '', 16)
        if not low or low < 0xDC00 or low > 0xDFFF then return nil end
        code = 0x10000 + (code - 0xD800) * 1024 + (low - 0xDC00)
        at = at + 6
      end
      out[#out + 1] = utf8(code)
    else
      if not PLAIN[kind] then return nil end
      out[#out + 1] = PLAIN[kind]
      at = slash + 2
    end
  end
  return table.concat(out)
end

-- First and last byte of each wanted value of the object that opens at `at`, by key, and the
-- object's last byte; nil when it is not a complete object. Of equal keys the last one counts,
-- as in the engine's own parser.
local function object_fields(text, at)
  if byte(text, at) ~= OPEN_OBJECT then return nil end
  local fields = {}
  at = after_space(text, at + 1)
  if byte(text, at) == CLOSE_OBJECT then return fields, at end
  while true do
    if byte(text, at) ~= QUOTE then return nil end
    local close = string_end(text, at)
    if not close then return nil end
    local key = MAY_BEGIN[byte(text, at + 1)] and close - at - 1 <= LONGEST_KEY
      and unescaped(sub(text, at + 1, close - 1)) or ''
    at = after_space(text, close + 1)
    if byte(text, at) ~= COLON then return nil end
    at = after_space(text, at + 1)
    local finish = value_end(text, at)
    if not finish then return nil end
    if WANTED[key] then fields[key] = { at, finish } end
    at = after_space(text, finish + 1)
    local c = byte(text, at)
    if c == CLOSE_OBJECT then return fields, at end
    if c ~= COMMA then return nil end
    at = after_space(text, at + 1)
  end
end

-- The text of a string value, nil when the span holds no string or one written with more than
-- `longest` bytes: only what may be wanted is copied.
local function string_value(text, span, longest)
  if not span or byte(text, span[1]) ~= QUOTE then return nil end
  if span[2] - span[1] - 1 > longest then return nil end
  return unescaped(sub(text, span[1] + 1, span[2] - 1))
end

-- The start of one value, without its last byte: a prompt that is continued keeps its start.
local function head(text, span)
  return sub(text, span[1], math.min(span[2] - 1, span[1] + HEAD_BYTES - 1))
end

-- What identifies a conversation: the starts of its messages up to the first of the user. The
-- turns that follow leave it as it is, so they reach the replica that holds the prefix.
local function conversation(text, span)
  local parts, at = {}, after_space(text, span[1] + 1)
  while #parts < MOST_MESSAGES do
    local fields, finish = object_fields(text, at)
    if not fields then break end
    parts[#parts + 1] = head(text, { at, finish })
    if string_value(text, fields.role, LONGEST_KEY) == 'user' then break end
    at = after_space(text, finish + 1)
    if byte(text, at) ~= COMMA then break end
    at = after_space(text, at + 1)
  end
  return table.concat(parts)
end

-- FNV-1a, 32 bits, of a short text.
local function digest(text)
  local h = tobit(0x811c9dc5)
  for i = 1, #text do
    h = bxor(h, byte(text, i))
    h = tobit(h + lshift(h, 1) + lshift(h, 4) + lshift(h, 7) + lshift(h, 8) + lshift(h, 24))
  end
  return bit.tohex(h)
end

local function prefix_of(text, fields)
  local list = fields.messages
  if list and byte(text, list[1]) == OPEN_LIST then return digest(conversation(text, list)) end
  local prompt = fields.prompt or fields.input
  return prompt and digest(head(text, prompt)) or nil
end

local function printable(name)
  return #name > 0 and #name <= LONGEST_MODEL and not find(name, '[%c]')
end

function envoy_on_request(handle)
  local headers = handle:headers()
  local method = headers:get(':method')
  if method ~= 'POST' and method ~= 'PUT' and method ~= 'PATCH' then return end
  local by_model = find(headers:get(':path'), '^/v1/') ~= nil
  local encoding = headers:get('content-encoding')
  if encoding and encoding ~= 'identity' then
    if by_model then
      handle:respond({ [':status'] = '415' },
        'A compressed request body is not supported: send plain JSON.')
    end
    return
  end

  local body = handle:body()
  local text = body and body:getBytes(0, body:length()) or ''
  local fields, finish = object_fields(text, after_space(text, 1))
  if fields and after_space(text, finish + 1) <= #text then fields = nil end
  if not fields then
    if by_model then
      handle:respond({ [':status'] = '400' }, #text == 0
        and 'The request has no body: send a JSON object with a "model".'
        or 'The request body is not a complete JSON object.')
    end
    return
  end

  -- What was taken from the handle before the body came is no longer valid.
  headers = handle:headers()
  local metadata = handle:streamInfo():dynamicMetadata()
  local model = string_value(text, fields.model, LONGEST_MODEL * LONGEST_ESCAPE)
  if model and printable(model) then
    metadata:set('enova', 'model', model)
  elseif by_model then
    handle:respond({ [':status'] = '400' }, fields.model
      and 'The value of "model" is not a usable name.'
      or 'You must provide a "model" in the request body.')
    return
  end
  local stream = fields.stream
  metadata:set('enova', 'stream', stream ~= nil and sub(text, stream[1], stream[2]) == 'true')
  if AFFINITY then
    local prefix = prefix_of(text, fields)
    if prefix then headers:replace('x-enova-prefix', prefix) end
  end
  -- Last, because a changed header makes Envoy choose the route again.
  if by_model then headers:replace('x-enova-model', model) end
end
