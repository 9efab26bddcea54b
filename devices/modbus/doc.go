// Package modbus reads and writes Modbus devices over serial lines, TCP, TLS
// and UDP, and serves registers to Modbus clients.
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
//   - Framing (wire: serialWire with RTU or ASCII, tcpWire) and carrier (tty,
//     TCP, TLS, UDP) are separate, so that each variant is a pair of the two.
//   - The reader of serial framings finds the answer at any offset, so that
//     noise before and after it, and the adapter's echo of the request, do no
//     harm. Holes inside a frame are not an error: adapters and kernels make
//     them.
//   - An RTU or ASCII answer does not say which request it answers. What is
//     done against late ones, and what remains, is at lateReplies. Over UDP
//     one thing more remains: an answer that the network itself duplicates,
//     so that the copy comes after the next request.
//   - A UDP datagram that is not exactly one frame is dropped; in a stream it
//     would break the framing and close the connection.
//   - Timeouts count from the end of transmission, which is computed from the
//     baud rate, and leave the answer its time on the wire: 125 registers take
//     more than two seconds at 1200 baud. A late answer raises its unit's
//     timeout, at most to four times what is configured.
//   - One request at a time, also on TCP: many devices and all gateways to
//     serial lines take no more. With Config.Pipeline several are outstanding;
//     a device that closes or keeps silent then, and answers one well, is asked
//     one at a time from there on. State has one owner all the same, who holds
//     the line's baton. What is proven is the same but for one thing: of an
//     answer cut short in a stream, whose missing end another answer makes up,
//     the beginning of that other is looked for (pipe.mixed); with one
//     outstanding, silence tells. Writes are outstanding alone.
//   - Writing one coil or register is answered by an exact copy of the
//     request, which an echoing adapter produces too. So the first write after
//     opening a port is preceded by a read, whose answer shows which it is.
//   - An exception is treated by what it means: 1 to 3 are for good, 5 and 6
//     are asked again at growing intervals within the timeout (but a write
//     that the device accepted never is), 10 and 11 are the silence of a unit
//     behind a gateway.
//   - What a point's register needs besides its address to be read or written is
//     its Source: Written names the function, Bit is one bit of a register,
//     Queue is read with function 24. A Bit is read like its register, so that
//     all bits of one share its request. It is set in the device, by function
//     22; one that refuses that is found out once (Facts), and its register is
//     read and written back in one query, with nothing of this line in between.
//   - Unit 0 of a serial line, also of one behind a gateway, is a broadcast: it
//     is only written, and waits for nobody.
//   - Which requests read a device's points is planned by the time they take
//     (planner): with many speeds, latencies and limits no rule of thumb is
//     always right. What a device refuses is found by halving the request, and
//     kept for the device (Facts); a person learns which line of the map would
//     have said it.
//   - Points of SunSpec devices lie in models, whose places are found by walking
//     along the device's chain (WalkModels) and kept (Facts). From then on they
//     are planned like any registers, but each request begins at its model's id
//     and length, which must be as they were; else nothing of the answer is
//     taken and the chain is walked anew. That costs a few registers, and spares
//     any thought of when a device may have changed. A value that has an exponent
//     travels with it in one raw form, because some devices change exponents
//     from one request to the next.
//   - The server side is here because it is the same formats from the other
//     end. It is for simulation and tests.
package modbus
