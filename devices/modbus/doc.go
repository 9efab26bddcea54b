// Package modbus reads and writes Modbus devices over serial lines and TCP,
// and serves registers to Modbus clients.
//
// # Contract
//
// Nothing is returned that is not proven to answer the request: unit,
// function, byte count as asked for, or address and value as written, and
// checksum or transaction id. What cannot be proven is an error. A Line
// belongs to one goroutine; it opens its port when a query needs it and
// closes it on errors after which it is of no use. An exchange ends within
// the timeout (plus the time on the wire), or 50 ms after its context is done.
//
// # Decisions
//
//   - Of goburrow/modbus only the packagers are used (Encode, Verify, Decode).
//     Its transporters take a late answer for the next one's, never recognise
//     an exception that comes in two pieces, spin on a hang-up and never
//     reconnect; its client does not compare the length of an answer with what
//     was asked. Verify is never given less than a whole frame, on which it
//     would panic.
//   - Framing (wire: rtuWire, tcpWire) and carrier (tty, TCP) are separate, so
//     that RTU over TCP is a pair of the two, as other pairs will be.
//   - The RTU reader finds the answer at any offset, so that noise before and
//     after it, and the adapter's echo of the request, do no harm. Holes
//     inside a frame are not an error: adapters and kernels make them.
//   - An RTU answer does not say which request it answers. What is done
//     against late ones, and what remains, is at lateReplies.
//   - Timeouts count from the end of transmission, which is computed from the
//     baud rate, and leave the answer its time on the wire: 125 registers take
//     more than two seconds at 1200 baud. A late answer raises its unit's
//     timeout, at most to four times what is configured.
//   - One request at a time, also on TCP: many devices and all gateways to
//     serial lines take no more.
//   - Writing one coil or register is answered by an exact copy of the
//     request, which an echoing adapter produces too. So the first write after
//     opening a port is preceded by a read, whose answer shows which it is.
//   - Which requests read a device's points is planned by the time they take
//     (planner): with many speeds, latencies and limits no rule of thumb is
//     always right. What a device refuses is found by halving the request, and
//     kept for the device (Facts); a person learns which line of the map would
//     have said it.
//   - The server side is here because it is the same formats from the other
//     end. It is for simulation and tests.
package modbus
