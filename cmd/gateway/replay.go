package main

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"edgegateway/devices/capture"
	"edgegateway/devices/serial"
	"edgegateway/devices/serial/pty"
)

func newReplay() *cobra.Command {
	var r replaying
	cmd := &cobra.Command{
		Use:   "replay FILE",
		Short: "Show what a capture says, or play it in place of the devices",
		Long: `replay reads what ` + "`gateway capture`" + ` wrote.

With --decode it prints each frame: when, after which pause, from or to which
unit, what it says, and whether its checksum is right; and in the end how each
unit did. --pcap writes the same frames for Wireshark.

Otherwise it plays the devices: a gateway that asks what was asked when the
capture was made is answered what was answered then, after the same time. A
capture of a serial line is played on a pseudo-terminal, or with --listen, as one
of TCP is, on a TCP port. Devices that speak by themselves are heard again and
again.`,
		Example: `  gateway replay rs485-20261120-230600.capture --decode
  gateway replay rs485-20261120-230600.capture --pty /tmp/rs485 --speed max`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, stop := withSignals(cmd.Context())
			defer stop()
			r.file = args[0]
			return r.run(ctx)
		},
	}
	flags := cmd.Flags()
	flags.BoolVar(&r.decode, "decode", false, "print the frames for people")
	flags.StringVar(&r.pcap, "pcap", "", "write the frames to this new file for Wireshark")
	flags.StringVar(&r.listen, "listen", "", "play on this host:port (for a capture of TCP 127.0.0.1 and a free port, if not given)")
	flags.StringVar(&r.pty, "pty", "", "play on a pseudo-terminal that appears under this path")
	flags.StringVar(&r.speed, "speed", "1", "1 is as it was, 10 ten times as fast, max without any delay")
	return cmd
}

// A replaying is one run of the command.
type replaying struct {
	file              string
	decode            bool
	pcap, listen, pty string
	speed             string
}

func (r *replaying) run(ctx context.Context) error {
	speed, err := parseSpeed(r.speed)
	if err != nil {
		return err
	}
	if r.listen != "" && r.pty != "" {
		return usageError("--listen and --pty: it is played in one place")
	}
	c, err := readCapture(r.file)
	if err != nil {
		return err
	}
	if r.pcap != "" {
		if err := r.writePcap(c); err != nil {
			return err
		}
	}
	if r.decode {
		out := bufio.NewWriter(os.Stdout)
		decodeCapture(out, c)
		return out.Flush()
	}
	if r.pcap != "" && r.listen == "" && r.pty == "" {
		return nil
	}
	return r.play(ctx, c, speed)
}

func parseSpeed(s string) (float64, error) {
	if s == "max" {
		return capture.AtOnce, nil
	}
	speed, err := strconv.ParseFloat(s, 64)
	if err != nil || !(speed >= 0.001 && speed <= 10000) {
		return 0, usageError("--speed %s: it is a number such as 1 or 10, or max", s)
	}
	return speed, nil
}

// readCapture reads a file and says what is wrong with it.
func readCapture(path string) (*capture.Capture, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	c, err := capture.Read(f)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if c.Cut {
		fmt.Fprintf(os.Stderr, "%s: its last line was cut off, and is left out\n", path)
	}
	return c, nil
}

func (r *replaying) writePcap(c *capture.Capture) error {
	var files captureSink
	f, err := files.newFile(r.pcap)
	if err != nil {
		return err
	}
	out := bufio.NewWriter(f)
	s, err := newFrameSink(out, c.Header)
	var last time.Duration
	for _, e := range c.Events {
		last = e.At
		err = cmp.Or(err, s.add(e))
	}
	if err == nil {
		err = s.add(capture.Event{Kind: capture.Ended, At: last})
	}
	if err = errors.Join(err, out.Flush(), files.close()); err != nil {
		return fmt.Errorf("write %s: %w", r.pcap, err)
	}
	return nil
}

// play plays until ctx is done.
func (r *replaying) play(ctx context.Context, c *capture.Capture, speed float64) error {
	p, err := capture.NewPlayer(c, speed)
	if err != nil {
		return fmt.Errorf("%s: %w", r.file, err)
	}
	var work sync.WaitGroup
	defer work.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	work.Go(func() { tellStrange(ctx, p) })
	if r.listen == "" && c.Framing != capture.TCP {
		return r.playPTY(ctx, c, p)
	}
	l, err := net.Listen("tcp", cmp.Or(r.listen, "127.0.0.1:0"))
	if err != nil {
		return err
	}
	scheme := map[string]string{capture.RTU: "rtu+tcp", capture.ASCII: "ascii+tcp"}[c.Framing]
	r.tell(c, p, fmt.Sprintf("%s://%s", cmp.Or(scheme, "tcp"), l.Addr()))
	return playTCP(ctx, l, p)
}

// tell says where it is played.
func (r *replaying) tell(c *capture.Capture, p *capture.Player, address string) {
	what := "what was heard again and again"
	if n := p.Requests(); n > 0 {
		what = count(n, "request") + " that can be answered"
	}
	fmt.Printf("bus %s of %s, %s: for a gateway to find it,\n\n[bus.%q]\naddress = %q\n", c.Bus, c.Start.Format(time.DateTime), what, c.Bus, address)
	if address[0] == '/' && c.Baud > 0 {
		fmt.Printf("baud    = %d\nformat  = %q\n", c.Baud, c.Format)
	}
	fmt.Fprintln(os.Stderr, "\nCtrl-C ends it.")
}

const maxReplayClients = 16

// playTCP plays to each client that comes.
func playTCP(ctx context.Context, l net.Listener, p *capture.Player) error {
	defer context.AfterFunc(ctx, func() { l.Close() })()
	defer l.Close()
	var clients sync.WaitGroup
	defer clients.Wait()
	slots := make(chan struct{}, maxReplayClients)
	for {
		conn, err := l.Accept()
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			return err
		}
		select {
		case slots <- struct{}{}:
			clients.Go(func() {
				defer func() { conn.Close(); <-slots }()
				defer context.AfterFunc(ctx, func() { conn.Close() })()
				if err := p.Serve(ctx, conn); err != nil && ctx.Err() == nil {
					fmt.Fprintln(os.Stderr, err)
				}
			})
		default: // more than ask at once in a plant
			conn.Close()
		}
	}
}

func (r *replaying) playPTY(ctx context.Context, c *capture.Capture, p *capture.Player) error {
	pair, err := pty.Open(pty.Config{Link: r.pty})
	if err != nil {
		return err
	}
	defer pair.Close()
	port, err := serial.Open(serial.Config{Path: pair.B, Baud: 115200})
	if err != nil {
		return err
	}
	defer port.Close()
	r.tell(c, p, pair.A)
	return p.Serve(ctx, port)
}

// tellStrange says which requests cannot be answered, each once.
func tellStrange(ctx context.Context, p *capture.Player) {
	told := map[string]bool{}
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for done := false; !done; {
		select {
		case <-tick.C:
		case <-ctx.Done():
			done = true
		}
		list := p.Strange()
		slices.Sort(list)
		for _, s := range list {
			if !told[s] {
				told[s] = true
				fmt.Fprintf(os.Stderr, "not in the capture, and not answered: %s\n", s)
			}
		}
	}
}
