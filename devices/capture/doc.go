// Package capture records what passes the port of a bus, writes and reads it
// as a file, plays it back in place of the devices, and hands it on to
// Wireshark.
//
// # The file
//
// A capture is text, a line for each event, so that people can read it, add
// remarks, cut it and send it in a mail:
//
//	gateway-capture 1
//	bus      rs485
//	address  /dev/ttyUSB0
//	protocol modbus
//	framing  rtu
//	line     9600 8N1
//	start    2026-11-20T23:06:00.123456Z
//	clock    exact
//	boot     12345.678901
//	gateway  1.2.3
//	port     open
//
//	0.001234 > 01 03 00 00 00 02 C4 0B
//	0.025678 < 01 03 04 00 E6 00 00 5A 3D
//	# here meter 2 was unplugged
//	1.250000 > 02 03 00 00 00 02 C4 38
//	9.300000 error "read serial port /dev/ttyUSB0: it was unplugged …"
//	9.300100 close
//	60.000000 end "its time of 1m is over"
//
// The first line says the version; a file with a greater one is refused. Then
// come one key and its value a line, in any order, up to an empty line. Unknown
// keys are passed over, so that later versions can add some. Of the events each
// begins with the seconds since the start by boot time, which never steps. The
// times never fall.
//
//	> BYTES      sent; the time is when they were handed to the port
//	< BYTES      received; the time is when the read that brought them returned
//	open         the port or the connection was opened
//	close        it was closed
//	error TEXT   it could not be opened, or was lost
//	speed BAUD   its speed was changed, as meters with an optical head want
//	missed N B   N events with B bytes were not recorded: who took them was slow
//	end TEXT     the capture ends here, and why
//
// BYTES are hexadecimal, with or without spaces, or a quoted string with Go's
// escapes. Lines that are empty or begin with # are passed over. A last line
// without its line feed was cut off and counts as not there; a capture without
// end was cut off, too.
//
// Start is the wall time of the moment that boot says in boot time, and clock
// how far that could be trusted.
//
// # Decisions
//
//   - Not pcap: a serial line has no packets. What is one is found from the
//     bytes, and a file that has them only in packets has decided already.
//   - A Tap sits in the port, above TLS, and costs one atomic load per read or
//     write while nobody records. Whoever records gets copies through a bounded
//     queue. When that is full, events are counted and left out; the bus never
//     waits.
package capture
