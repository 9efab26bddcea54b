package simulator

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"edgegateway/devices"
	"edgegateway/devices/modbus"
	"edgegateway/devices/serial"
)

const (
	maxConns = 64 // clients of a bus; one more is turned away
	maxLate  = 64 // late answers of a client; while they wait no further request is read
)

// serveTCP serves a bus on TCP until ctx is done; up is told its address.
//
// It is not modbus.ServeTCP because there an answer that is late holds up all
// behind it, and each answer costs one write: here the answers to requests
// that came together leave together.
func (b *bus) serveTCP(ctx context.Context, up func(addr string)) error {
	return b.listen(ctx, up, func(session context.Context, address string) (net.Addr, func(), error) {
		ln, err := new(net.ListenConfig).Listen(session, "tcp", address)
		if err != nil {
			return nil, nil, err
		}
		return ln.Addr(), func() { b.accept(session, ln) }, nil
	})
}

// listen opens a bus of the network and serves it until ctx is done; up is told
// its address. It opens it again, at the same address, after each time it was
// unplugged, and tries until it can.
func (b *bus) listen(ctx context.Context, up func(addr string), open func(session context.Context, address string) (net.Addr, func(), error)) error {
	address, once := b.Listen, false
	for {
		session := b.plug.session(ctx)
		if session == nil {
			return nil
		}
		addr, serve, err := open(session, address)
		switch {
		case err != nil && !once:
			return fmt.Errorf("bus %s: listen on %s: %w", b.Name, address, err)
		case err != nil:
			b.log.Warn("listen again", "bus", b.Name, "address", address, "err", err)
			devices.Sleep(session, time.Second)
			continue
		}
		address, once = addr.String(), true
		up(schemes[b.Kind][b.Carrier] + address)
		serve()
	}
}

// accept serves the clients of ln until ctx is done, and closes it and them.
func (b *bus) accept(ctx context.Context, ln net.Listener) {
	var conns sync.WaitGroup
	defer conns.Wait()
	defer context.AfterFunc(ctx, func() { ln.Close() })()
	room := maxConns
	if b.Kind == Lines {
		room = 1
	}
	slots := make(chan struct{}, room)
	for {
		conn, err := ln.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return
			}
			b.log.Warn("accept a client", "bus", b.Name, "err", err)
			devices.Sleep(ctx, time.Second)
			continue
		}
		select {
		case slots <- struct{}{}:
			conns.Go(func() {
				b.attend(ctx, conn)
				<-slots
			})
		default:
			conn.Close()
		}
	}
}

// attend serves one client, and closes its connection.
func (b *bus) attend(ctx context.Context, conn net.Conn) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	if b.Kind == TCP {
		b.attendTCP(ctx, conn)
		return
	}
	var reader sync.WaitGroup
	defer reader.Wait()
	if b.silentClient() { // nobody else would notice that it goes
		reader.Go(func() {
			io.Copy(io.Discard, conn)
			cancel()
		})
		defer conn.Close()
	}
	b.talk(ctx, conn)
}

// silentClient reports whether a client only listens.
func (b *bus) silentClient() bool {
	_, meter := b.Framing.(serial.Meter)
	return b.Kind == Lines && len(b.Polls) == 0 && !meter
}

// attendTCP serves a client of Modbus TCP, encrypted or not.
func (b *bus) attendTCP(ctx context.Context, conn net.Conn) {
	c := newClient(b, conn)
	if b.Carrier == Encrypted {
		secure := tls.Server(conn, b.TLS)
		if err := secure.HandshakeContext(ctx); err != nil {
			b.log.Warn("a client was turned away", "bus", b.Name, "err", err)
			return
		}
		c = newClient(b, secure)
		c.barred = b.Role != "" && !hasRole(secure.ConnectionState().VerifiedChains, b.Role)
	}
	c.serve(ctx)
}

// hasRole reports whether the certificate that begins the chains carries role
// (Modbus/TCP Security, 8.4). One that was not proven carries none.
func hasRole(chains [][]*x509.Certificate, role string) bool {
	if len(chains) == 0 {
		return false
	}
	has, ok := modbus.Role(chains[0][0])
	return ok && has == role
}

// A client is one connection to a bus. One goroutine reads and answers;
// others bring late answers.
type client struct {
	desk
	conn net.Conn
	in   *bufio.Reader

	mu  sync.Mutex // guards out
	out *bufio.Writer

	late  sync.WaitGroup
	slots chan struct{} // one for each late answer under way
}

func newClient(b *bus, conn net.Conn) *client {
	return &client{
		desk: desk{bus: b}, conn: conn,
		in: bufio.NewReaderSize(conn, 4096), out: bufio.NewWriterSize(conn, 4096),
		slots: make(chan struct{}, maxLate),
	}
}

// serve answers until the client goes, breaks the framing, or ctx is done.
func (c *client) serve(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	defer c.late.Wait()
	defer cancel()
	var frame [tcpHeader + 253]byte
	for {
		n, err := c.next(frame[:])
		if err != nil {
			return
		}
		reply := c.reply(frame[6], modbus.PDU(frame[tcpHeader:n]))
		if reply == nil {
			continue
		}
		answer := append(frame[:tcpHeader:tcpHeader], reply...)
		binary.BigEndian.PutUint16(answer[4:], uint16(1+len(reply)))
		answer, delay := c.spoil(answer)
		if delay > 0 {
			c.sendLate(ctx, answer, delay)
		} else if c.send(answer, c.in.Buffered() == 0) != nil {
			return
		}
	}
}

// reply carries out a request. Who has not the role is told that there is no
// such function, as Modbus/TCP Security wants it.
func (c *client) reply(unit byte, req modbus.PDU) modbus.PDU {
	if c.barred {
		return modbus.PDU{req[0] | 0x80, modbus.IllegalFunction}
	}
	return modbus.Serve(unit, req, &c.desk)
}

// next reads one frame.
func (c *client) next(frame []byte) (int, error) {
	if _, err := io.ReadFull(c.in, frame[:tcpHeader]); err != nil {
		return 0, err
	}
	n := tcpHeader - 1 + int(binary.BigEndian.Uint16(frame[4:]))
	if binary.BigEndian.Uint16(frame[2:]) != 0 || n <= tcpHeader || n > len(frame) {
		return 0, fmt.Errorf("frame %x is not Modbus TCP", frame[:tcpHeader])
	}
	_, err := io.ReadFull(c.in, frame[tcpHeader:n])
	return n, err
}

func (c *client) send(answer []byte, flush bool) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, err := c.out.Write(answer); err != nil || !flush {
		return err
	}
	return c.out.Flush()
}

// sendLate sends answer after delay. When too many wait, it waits for one.
func (c *client) sendLate(ctx context.Context, answer []byte, delay time.Duration) {
	select {
	case c.slots <- struct{}{}:
	case <-ctx.Done():
		return
	}
	c.late.Go(func() {
		if devices.Sleep(ctx, delay) {
			c.send(answer, true)
		}
		<-c.slots
	})
}
