package simulator

import (
	"context"
	"fmt"
	"net"
	"slices"
	"sync"
	"time"

	"edgegateway/devices"
	"edgegateway/devices/modbus"
)

// servePackets is serveTCP for datagrams, each of which is one frame.
func (b *bus) servePackets(ctx context.Context, up func(addr string)) error {
	address, once := b.Listen, false
	for {
		session := b.plug.session(ctx)
		if session == nil {
			return nil
		}
		conn, err := new(net.ListenConfig).ListenPacket(session, "udp", address)
		switch {
		case err != nil && !once:
			return fmt.Errorf("bus %s: listen on %s: %w", b.Name, address, err)
		case err != nil:
			b.log.Warn("listen again", "bus", b.Name, "address", address, "err", err)
			devices.Sleep(session, time.Second)
			continue
		}
		address, once = conn.LocalAddr().String(), true
		up(schemes[b.Kind][b.Carrier] + address)
		p := &faultyPackets{PacketConn: conn, desk: desk{bus: b}, ctx: session, slots: make(chan struct{}, maxLate)}
		serve := modbus.ServeUDP
		if b.Kind == RTU {
			serve = modbus.ServeRTUOverUDP
		}
		if err := serve(session, p, &p.desk); err != nil && ctx.Err() == nil {
			b.log.Warn("read datagrams", "bus", b.Name, "err", err)
			devices.Sleep(session, time.Second)
		}
		p.late.Wait()
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
