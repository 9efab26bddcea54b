package modbus

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"edgegateway/devices"
	"edgegateway/devices/serial"
)

const (
	maxClients = 64                    // of one server; more are turned away
	frameGap   = 50 * time.Millisecond // silence that ends an RTU frame
)

// ServeTCP answers Modbus TCP clients on ln, which tls.NewListener may have
// made, from s until ctx is done, then closes ln and all connections and
// returns nil.
func ServeTCP(ctx context.Context, ln net.Listener, s Store) error {
	var clients sync.WaitGroup
	defer clients.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(ctx, func() { ln.Close() })()
	slots := make(chan struct{}, maxClients)
	for {
		conn, err := ln.Accept()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("accept Modbus clients on %v: %w", ln.Addr(), err)
		}
		select {
		case slots <- struct{}{}:
			clients.Go(func() {
				serveConn(ctx, conn, s)
				<-slots
			})
		default:
			conn.Close()
		}
	}
}

// serveConn answers one client until it goes, breaks the framing, or ctx is
// done.
func serveConn(ctx context.Context, conn net.Conn, s Store) {
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	buf := make([]byte, maxTCP)
	for {
		n, err := readTCPFrame(conn, buf)
		if err != nil {
			return
		}
		reply := tcpAnswer(buf[:n], s)
		if reply == nil {
			continue
		}
		if _, err := conn.Write(reply); err != nil {
			return
		}
	}
}

// tcpAnswer is the frame that s answers to a whole one, nil for none.
func tcpAnswer(frame []byte, s Store) []byte {
	reply := Serve(frame[6], PDU(frame[tcpHeader:]), s)
	if reply == nil {
		return nil
	}
	b := append([]byte(nil), frame[:tcpHeader]...)
	binary.BigEndian.PutUint16(b[4:], uint16(1+len(reply)))
	return append(b, reply...)
}

// ServeUDP answers Modbus TCP frames that come as datagrams, one in each, on
// conn from s until ctx is done, then closes conn and returns nil.
func ServeUDP(ctx context.Context, conn net.PacketConn, s Store) error {
	return serveDatagrams(ctx, conn, func(frame []byte) []byte {
		if len(frame) < tcpHeader {
			return nil
		}
		if n, err := tcpFrameLen(frame); err != nil || n != len(frame) {
			return nil
		}
		return tcpAnswer(frame, s)
	})
}

// ServeRTUOverUDP is ServeUDP for RTU frames.
func ServeRTUOverUDP(ctx context.Context, conn net.PacketConn, s Store) error {
	return serveDatagrams(ctx, conn, func(frame []byte) []byte {
		pdu, ok := decodeRTU(frame)
		if !ok {
			return nil
		}
		reply := Serve(frame[0], pdu, s)
		if reply == nil || frame[0] == 0 {
			return nil
		}
		b, err := encodeRTU(frame[0], reply)
		if err != nil {
			return nil // a Store cannot make a reply that long
		}
		return b
	})
}

// serveDatagrams sends back what answer returns, if anything.
func serveDatagrams(ctx context.Context, conn net.PacketConn, answer func(frame []byte) []byte) error {
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	buf := make([]byte, maxTCP+1)
	for {
		n, from, err := conn.ReadFrom(buf)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			return fmt.Errorf("read Modbus datagrams on %v: %w", conn.LocalAddr(), err)
		}
		if reply := answer(buf[:n]); reply != nil {
			conn.WriteTo(reply, from) // who does not get it asks again
		}
	}
}

// A lineServer is how one framing of serial lines is served.
type lineServer struct {
	framing framing
	cfg     serial.Config
	gap     time.Duration // silence that ends a frame whose length is not known
	// next finds the first whole request in what has arrived and returns
	// the rest. silent says that nothing follows.
	next func(in []byte, silent bool) (unit byte, req PDU, rest []byte)
}

// ServeRTU answers requests that arrive on port, a line set as cfg says (its
// path is not used), from s. It returns nil when ctx is done and the port's
// error when that is gone; the caller closes the port. Noise, bad checksums
// and what other units say are passed over. Requests to unit 0 are carried
// out without a reply.
func ServeRTU(ctx context.Context, port Port, cfg serial.Config, s Store) error {
	return lineServer{rtuFraming{}, cfg, frameGap, nextRequest}.serve(ctx, port, s)
}

// ServeASCII is ServeRTU for the ASCII framing.
func ServeASCII(ctx context.Context, port Port, cfg serial.Config, s Store) error {
	return lineServer{asciiFraming{}, cfg, asciiHesitation, nextASCIIRequest}.serve(ctx, port, s)
}

func (l lineServer) serve(ctx context.Context, port Port, s Store) error {
	defer context.AfterFunc(ctx, func() { port.SetReadDeadline(time.Unix(1, 0)) })()
	var in []byte
	chunk := make([]byte, 256)
	for {
		port.SetReadDeadline(time.Now().Add(l.gap))
		if ctx.Err() != nil {
			return nil
		}
		n, err := port.Read(chunk)
		silent := errors.Is(err, os.ErrDeadlineExceeded)
		if err != nil && !silent {
			return err
		}
		in = append(in, chunk[:n]...)
		var unit byte
		var req PDU
		for {
			if unit, req, in = l.next(in, silent); req == nil {
				break
			}
			if err := l.answer(ctx, port, unit, Serve(unit, req, s)); err != nil {
				return err
			}
		}
	}
}

// answer sends reply after the silence that ends the request. nil is no
// reply, and to a broadcast there is none.
func (l lineServer) answer(ctx context.Context, port Port, unit byte, reply PDU) error {
	if reply == nil || unit == 0 {
		return nil
	}
	frame, err := l.framing.encode(unit, reply)
	if err != nil {
		return nil // a Store cannot make a reply that long
	}
	if !devices.Sleep(ctx, l.framing.silence(l.cfg)) {
		return nil
	}
	_, err = port.Write(frame)
	return err
}

// nextASCIIRequest is nextRequest for ASCII, where each frame shows its end.
func nextASCIIRequest(in []byte, silent bool) (unit byte, req PDU, rest []byte) {
	for i := range in {
		raw, n, v := scanASCII(in[i:])
		if v == incomplete && !silent {
			return 0, nil, in[i:]
		}
		if v == whole {
			return raw[0], PDU(raw[1 : len(raw)-1]), in[i+n:]
		}
	}
	return 0, nil, nil
}

// nextRequest finds the first whole request in what has arrived and returns
// the rest. A request that may be going on hides what follows it, unless the
// line is silent: then everything is over, and what is left over is nothing.
func nextRequest(in []byte, silent bool) (unit byte, req PDU, rest []byte) {
	for i := range in {
		n, known := requestLen(in[i:])
		if !known || n > maxRTU {
			continue
		}
		if n > len(in)-i {
			if silent {
				continue
			}
			break
		}
		if pdu, ok := decodeRTU(in[i : i+n]); ok {
			return in[i], pdu, in[i+n:]
		}
	}
	if !silent {
		return 0, nil, in[max(0, len(in)-maxRTU):]
	}
	if pdu, ok := decodeRTU(in); ok { // a function unknown here, in one piece
		return in[0], pdu, nil
	}
	return 0, nil, nil
}

// requestLen returns the length of the RTU frame that begins with in, or the
// least that tells it, and whether its function is known here.
func requestLen(in []byte) (n int, known bool) {
	if len(in) < 2 {
		return 2, true
	}
	switch fn := in[1]; {
	case fn >= fnReadCoils && fn <= fnWriteRegister, fn == fnDiagnostics:
		return 8, true
	case fn == fnWriteCoils || fn == fnWriteHoldings:
		if len(in) < 7 {
			return 7, true
		}
		return 9 + int(in[6]), true
	case fn == fnMaskWrite:
		return 10, true
	case fn == fnReadWrite:
		if len(in) < 11 {
			return 11, true
		}
		return 13 + int(in[10]), true
	case fn == fnReadFIFO:
		return 6, true
	case fn == fnEncapsulated && (len(in) < 3 || in[2] == meiIdentify):
		return 7, true
	}
	return 0, false
}
