// A channel of the official client that comes back without a gap, or says that there is one: docs/howto/recovery.md.
export function recover(socket, topic, params = {}, { onGap, onCaughtUp } = {}) {
  let last = null
  let next = null
  const channel = socket.channel(topic, () => ({ ...(typeof params == "function" ? params() : params), since: last }))
  const before = channel.trigger
  channel.trigger = function (event, payload, ref, joinRef) {
    const told = event == "phx_reply" && this.isJoining() && payload?.response?.phx_history
    if (told) {
      if (last) (told.recovered ? onCaughtUp : onGap)?.(told)
      last = told
      next = null
    } else if (event == "phx_offset") {
      next = ref
    } else if (next || ref?.includes?.(":")) {
      const here = next || ref
      next = null
      if (!this.isJoined()) return // its reply was late: all comes again
      last = { ...last, ref: here }
    }
    return before.call(this, event, payload, ref, joinRef)
  }
  return channel
}
