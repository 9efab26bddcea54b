package simulator

import (
	"context"
	"net"
	"slices"
	"sync"
	"time"

	"edgegateway/devices"
	"edgegateway/devices/modbus"
)

// servePackets is serveTCP for datagrams, each of which is one frame.
func (b *bus) servePackets(ctx context.Context, up func(addr string)) error {
	return b.listen(ctx, up, func(session context.Context, address string) (net.Addr, func(), error) {
		conn, err := new(net.ListenConfig).ListenPacket(session, "udp", address)
		if err != nil {
			return nil, nil, err
		}
		return conn.LocalAddr(), func() { b.answerPackets(session, conn) }, nil
	})
}

// answerPackets answers until ctx is done.
func (b *bus) answerPackets(ctx context.Context, conn net.PacketConn) {
	p := &faultyPackets{PacketConn: conn, desk: desk{bus: b}, ctx: ctx, slots: make(chan struct{}, maxLate)}
	defer p.late.Wait()
	serve := modbus.ServeUDP
	if b.Kind == RTU {
		serve = modbus.ServeRTUOverUDP
	}
	if err := serve(ctx, p, &p.desk); err != nil && ctx.Err() == nil {
		b.log.Warn("read datagrams", "bus", b.Name, "err", err)
		devices.Sleep(ctx, time.Second)
	}
}

// faultyPackets spoils the answers that leave it. Late ones do not hold up
// others; one more than maxLate is lost.
type faultyPackets struct {
	net.PacketConn
	desk
	ctx   context.Context // of the session
	late  sync.WaitGroup
	slots chan struct{}
}

// WriteTo implements net.PacketConn.
func (p *faultyPackets) WriteTo(frame []byte, to net.Addr) (int, error) {
	spoiled, delay := p.spoil(frame)
	if delay == 0 {
		_, err := p.PacketConn.WriteTo(spoiled, to)
		return len(frame), err
	}
	select {
	case p.slots <- struct{}{}:
	default:
		return len(frame), nil
	}
	spoiled = slices.Clone(spoiled)
	p.late.Go(func() {
		if devices.Sleep(p.ctx, delay) {
			p.PacketConn.WriteTo(spoiled, to)
		}
		<-p.slots
	})
	return len(frame), nil
}
