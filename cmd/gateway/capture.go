package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"time"

	"github.com/spf13/cobra"

	"edgegateway/devices/capture"
	"edgegateway/internal/budget"
	"edgegateway/internal/clock"
	"edgegateway/internal/config"
)

func newCapture(opts *options) *cobra.Command {
	c := capturing{opts: opts}
	cmd := &cobra.Command{
		Use:   "capture BUS",
		Short: "Record what passes a bus, with times, to a file for `gateway replay` and for Wireshark",
		Long: `capture records every byte that the running gateway sends and receives on a bus,
with its time, while the bus is used as before. It ends after --for, or with
Ctrl-C; what was recorded until then is kept.

The file is text: look into it, add remarks in lines that begin with #, send it
to whoever can help. It holds the values of the devices and no passwords of the
gateway; what devices are told over the bus, such as the password of a meter, is
in it.

Without a running gateway only a bus whose devices speak by themselves can be
recorded: on any other one nobody asks.`,
		Example: `  gateway capture rs485 --for 5m
  gateway capture rs485 --pcap rs485.pcap     for Wireshark, too`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, stop := withSignals(cmd.Context())
			defer stop()
			c.Bus = args[0]
			if err := c.check(); err != nil {
				return err
			}
			return c.run(ctx)
		},
	}
	flags := cmd.Flags()
	flags.DurationVar(&c.For, "for", time.Minute, "how long: up to 24h")
	flags.IntVar(&c.MiB, "size", 64, "end when the file has this many MiB: 1 to 1024")
	flags.StringVarP(&c.output, "output", "o", "", "write to this new file; - is standard output (default: one in this folder, named after the bus and the time)")
	flags.StringVar(&c.pcap, "pcap", "", "write this new file for Wireshark, too")
	return cmd
}

// A capturing is one run of the command.
type capturing struct {
	captureRequest
	opts         *options
	output, pcap string

	progress       *progress
	began          time.Time
	sent, received int
	missed         uint64
	last           time.Duration // of an event
}

// A captureSource is where events come from. next returns io.EOF after the last.
type captureSource struct {
	header capture.Header
	next   func() (capture.Event, error)
	close  func()
}

func (c *capturing) run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	socket := controlPath(c.opts.state)
	source, err := c.fromGateway(ctx, socket)
	if errors.Is(err, errNotRunning) {
		source, err = c.fromPort(ctx, socket)
	}
	if err != nil {
		return err
	}
	defer source.close()
	if c.output == "" {
		c.output = fmt.Sprintf("%s-%s.capture", regexp.MustCompile(`[^A-Za-z0-9_.]+`).ReplaceAllString(c.Bus, "-"), source.header.Start.Local().Format("20060102-150405"))
	}
	sink, err := c.open(source.header)
	if err != nil {
		return err
	}
	c.progress, c.began = newProgress(), time.Now()
	err = c.take(ctx, source, sink)
	c.progress.end()
	if err = errors.Join(err, sink.close()); err != nil {
		return err
	}
	c.tell()
	return nil
}

// fromGateway has the running gateway record.
func (c *capturing) fromGateway(ctx context.Context, socket string) (*captureSource, error) {
	resp, err := send(ctx, socket, "/capture", c.captureRequest)
	if err != nil {
		return nil, err
	}
	in, err := capture.NewReader(resp.Body)
	if err != nil {
		resp.Body.Close()
		return nil, fmt.Errorf("bus %s: the gateway's answer: %w", c.Bus, err)
	}
	return &captureSource{in.Header, in.Next, func() { resp.Body.Close() }}, nil
}

// fromPort opens the port of a bus that speaks by itself, and records that.
func (c *capturing) fromPort(ctx context.Context, socket string) (*captureSource, error) {
	cfg, err := loadDevices(c.opts.config)
	if err != nil {
		return nil, err
	}
	var bus *config.Bus
	for _, b := range cfg.Buses {
		if b.ID == c.Bus {
			bus = b
		}
	}
	switch {
	case bus == nil:
		return nil, usageError("there is no bus %q in the configuration", c.Bus)
	case bus.Protocol == config.Modbus || len(bus.Lines.Polls) > 0:
		return nil, fmt.Errorf("bus %s: no gateway is running (asked at %s), and nobody else asks the devices, so that there is nothing to record: start it first (systemctl start gateway)", c.Bus, socket)
	}
	var tap capture.Tap
	rec, err := tap.Record()
	if err != nil {
		return nil, err
	}
	stream, err := tap.Wrap(openStream(bus))
	if err != nil {
		return nil, fmt.Errorf("bus %s: %w", c.Bus, err)
	}
	fmt.Fprintf(os.Stderr, "No gateway is running: the port of bus %s is opened by this command.\n", c.Bus)
	h := captureHeader(bus, rec, clock.New(cfg.TrustClock).Now())
	heard := make(chan struct{})
	go func() { // ends with the stream
		defer close(heard)
		buf := make([]byte, 1024)
		for ctx.Err() == nil {
			stream.SetReadDeadline(time.Now().Add(time.Second))
			if _, err := stream.Read(buf); err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
				return
			}
		}
	}()
	over := time.After(c.For)
	size := 0
	next := func() (capture.Event, error) {
		if size >= c.MiB<<20 {
			return capture.Event{At: rec.Since(), Kind: capture.Ended, Text: c.full()}, nil
		}
		select {
		case e := <-rec.Events():
			size += 20 + 3*len(e.Data)
			return e, nil
		case <-over:
			return capture.Event{At: rec.Since(), Kind: capture.Ended, Text: c.over()}, nil
		case <-heard:
			select {
			case e := <-rec.Events(): // why it ended
				return e, nil
			default:
				return capture.Event{}, io.EOF
			}
		}
	}
	return &captureSource{h, next, func() { stream.Close(); rec.Close() }}, nil
}

// take writes what comes until it ends or ctx is done.
func (c *capturing) take(ctx context.Context, source *captureSource, sink *captureSink) error {
	type step struct {
		e   capture.Event
		err error
	}
	steps := make(chan step) // taken one by one: what waits, waits in the gateway
	go func() {
		for {
			e, err := source.next()
			select {
			case steps <- step{e, err}:
			case <-ctx.Done():
				return
			}
			if err != nil || e.Kind == capture.Ended {
				return
			}
		}
	}()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		c.progress.show("bus %s: %s of %s, sent %d times, received %d times%s; Ctrl-C ends it", c.Bus,
			budget.Brief(time.Since(c.began).Truncate(time.Second)), budget.Brief(c.For), c.sent, c.received, c.lost())
		select {
		case s := <-steps:
			if s.err != nil {
				s.e = capture.Event{At: c.last, Kind: capture.Ended, Text: "the gateway or the port ended: " + s.err.Error()}
			}
			c.note(s.e)
			if err := sink.add(s.e); err != nil || s.e.Kind == capture.Ended {
				return err
			}
		case <-tick.C:
		case <-ctx.Done():
			return sink.add(capture.Event{At: max(c.last, time.Since(c.began).Truncate(time.Microsecond)), Kind: capture.Ended, Text: "stopped by who started it"})
		}
	}
}

func (c *capturing) note(e capture.Event) {
	c.last = e.At
	switch e.Kind {
	case capture.Sent:
		c.sent++
	case capture.Received:
		c.received++
	case capture.Missed:
		c.missed += e.Count
	}
}

func (c *capturing) lost() string {
	if c.missed == 0 {
		return ""
	}
	return fmt.Sprintf(", MISSED %d events", c.missed)
}

// tell says what there is now, and what to do with it.
func (c *capturing) tell() {
	fmt.Fprintf(os.Stderr, "bus %s: sent %d times, received %d times%s", c.Bus, c.sent, c.received, c.lost())
	if c.missed > 0 {
		fmt.Fprint(os.Stderr, ", as this machine or the disk was too slow for a moment")
	}
	if c.output != "-" {
		fmt.Fprintf(os.Stderr, "; in %s. What it says:\n  gateway replay %s --decode", c.output, c.output)
	}
	fmt.Fprintln(os.Stderr)
	if c.sent+c.received == 0 {
		fmt.Fprintf(os.Stderr, "Nothing passed: is the bus lent, are all its devices silent or its port gone? See `gateway status`.\n")
	}
}

// A captureSink is the files that are written.
type captureSink struct {
	files []*os.File
	out   *capture.Writer
	pcap  *frameSink // nil: none
}

// newFile makes a file; one that exists is not replaced.
func (s *captureSink) newFile(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600) // what devices say concerns not everybody
	if errors.Is(err, os.ErrExist) {
		return nil, fmt.Errorf("%s exists and is not replaced: choose another name, or remove it", path)
	}
	if err != nil {
		return nil, err
	}
	s.files = append(s.files, f)
	return f, nil
}

func (c *capturing) open(h capture.Header) (*captureSink, error) {
	s := new(captureSink)
	err := s.open(h, c.output, c.pcap)
	if err != nil {
		s.close()
		for _, f := range s.files {
			os.Remove(f.Name())
		}
		return nil, err
	}
	return s, nil
}

func (s *captureSink) open(h capture.Header, output, pcap string) (err error) {
	to := os.Stdout
	if output != "-" {
		if to, err = s.newFile(output); err != nil {
			return err
		}
	}
	if s.out, err = capture.NewWriter(to, h); err != nil || pcap == "" {
		return err
	}
	f, err := s.newFile(pcap)
	if err != nil {
		return err
	}
	s.pcap, err = newFrameSink(f, h)
	return err
}

func (s *captureSink) add(e capture.Event) error {
	err := s.out.Add(e)
	if s.pcap != nil {
		err = errors.Join(err, s.pcap.add(e))
	}
	if err != nil {
		return fmt.Errorf("write the capture: %w", err)
	}
	return nil
}

func (s *captureSink) close() error {
	var errs []error
	for _, f := range s.files {
		errs = append(errs, f.Close())
	}
	return errors.Join(errs...)
}
