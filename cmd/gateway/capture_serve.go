package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix" // who is at the other end of the control socket

	"edgegateway/broker"
	"edgegateway/devices/capture"
	"edgegateway/devices/modbus"
	"edgegateway/devices/serial"
	"edgegateway/internal/budget"
	"edgegateway/internal/config"
)

// A running gateway records a bus for whoever asks over the control socket: the
// answer is the capture itself, line by line as it happens. The bus is used as
// before. It ends with its time, its size, or the connection; who takes it too
// slowly misses something, and the capture says so.

const (
	maxCaptureTime = 24 * time.Hour
	maxCaptureMiB  = 1024
)

// A captureRequest asks for what passes a bus.
type captureRequest struct {
	Bus string        `json:"bus"`
	For time.Duration `json:"for"`
	MiB int           `json:"mib"`
}

func (q *captureRequest) check() error {
	switch {
	case q.For <= 0 || q.For > maxCaptureTime:
		return usageError("capture for %v: it takes at most %s", q.For, budget.Brief(maxCaptureTime))
	case q.MiB < 1 || q.MiB > maxCaptureMiB:
		return usageError("capture of %d MiB: it is between 1 and %d", q.MiB, maxCaptureMiB)
	}
	return nil
}

// over says why a capture ends by itself.
func (q *captureRequest) over() string { return "its time of " + budget.Brief(q.For) + " is over" }
func (q *captureRequest) full() string { return fmt.Sprintf("it has its size of %d MiB", q.MiB) }

// captureHeader says what is recorded on a bus.
func captureHeader(bus *config.Bus, rec *capture.Recording, now broker.Clock) capture.Header {
	h := capture.Header{Bus: bus.ID, Address: bus.Address, Protocol: bus.Protocol, Start: now.Wall(int64(rec.Start)), Clock: now.Quality.String(),
		Boot: rec.Start, Gateway: version(), Open: rec.Open}
	line := bus.Modbus.Serial
	scheme, _, isURL := strings.Cut(bus.Address, "://")
	switch {
	case bus.Protocol != config.Modbus:
		line = bus.Lines.Serial
		if h.Framing = capture.Text; bus.Protocol == config.Frames {
			if _, binary := bus.Lines.Framing.(serial.Frames); binary {
				h.Framing = capture.Bytes
			}
		}
	case !isURL && bus.Modbus.Framing == modbus.FramingASCII, strings.HasPrefix(scheme, "ascii+"):
		h.Framing = capture.ASCII
	case !isURL, strings.HasPrefix(scheme, "rtu+"):
		h.Framing = capture.RTU
	default:
		h.Framing = capture.TCP
	}
	if !isURL {
		h.Baud = line.Baud
		if f, err := serial.ParseFormat(line.Format); err == nil {
			h.Format = f.String()
		}
	}
	return h
}

func (c *control) postCapture(w http.ResponseWriter, r *http.Request) {
	var req captureRequest
	err := json.NewDecoder(r.Body).Decode(&req)
	if err != nil {
		err = usageError("capture request: %w", err)
	} else {
		err = req.check()
	}
	if err != nil {
		answer(w, nil, err)
		return
	}
	io.Copy(io.Discard, r.Body) // only then the end of the connection is noticed
	p := c.plant()
	bus := p.buses[req.Bus]
	at := slices.IndexFunc(p.cfg.Buses, func(b *config.Bus) bool { return b.ID == req.Bus })
	if bus == nil || bus.tap == nil || at < 0 {
		answer(w, nil, usageError("the running gateway has no bus %q; it has %s", req.Bus, strings.Join(slices.Sorted(maps.Keys(p.buses)), ", ")))
		return
	}
	rec, err := bus.tap.Record()
	if err != nil {
		answer(w, nil, fmt.Errorf("bus %s: %w", req.Bus, err))
		return
	}
	defer rec.Close()
	who := "somebody"
	if cred, ok := r.Context().Value(peerKey{}).(*unix.Ucred); ok {
		who = peerName(cred.Uid)
	}
	c.log.Info("what passes this bus is recorded", "bus", req.Bus, "for", req.For.String(), "by", who)
	http.NewResponseController(w).SetWriteDeadline(time.Now().Add(req.For + time.Minute)) // who takes nothing does not hold it for ever
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	flush := func() { http.NewResponseController(w).Flush() }
	record(r.Context(), w, flush, captureHeader(p.cfg.Buses[at], rec, p.clock()), rec, &req, func() bool {
		now := c.plant().buses[req.Bus]
		return now != nil && now.tap == bus.tap
	})
}

// record writes what is recorded until it ends.
func record(ctx context.Context, to io.Writer, flush func(), h capture.Header, rec *capture.Recording, req *captureRequest, same func() bool) {
	sized := &sizedWriter{Writer: to}
	out, err := capture.NewWriter(sized, h)
	flush()
	timer, look := time.NewTimer(req.For), time.NewTicker(time.Second)
	defer timer.Stop()
	defer look.Stop()
	why := ""
	for err == nil && why == "" {
		select {
		case e := <-rec.Events():
			err = out.Add(e)
			if len(rec.Events()) == 0 {
				flush()
			}
			if sized.n >= int64(req.MiB)<<20 {
				why = req.full()
			}
		case <-timer.C:
			why = req.over()
		case <-look.C:
			if !same() {
				why = "a reload of the configuration changed the bus or removed it"
			}
		case <-ctx.Done():
			return
		}
	}
	rec.Close()
	last := rec.Since()
	for e := range rec.Events() {
		if err == nil {
			err = out.Add(e)
		}
	}
	if err == nil {
		out.Add(capture.Event{At: last, Kind: capture.Ended, Text: why})
	}
	flush()
}

// A sizedWriter counts what is written.
type sizedWriter struct {
	io.Writer
	n int64
}

func (w *sizedWriter) Write(b []byte) (int, error) {
	n, err := w.Writer.Write(b)
	w.n += int64(n)
	return n, err
}
