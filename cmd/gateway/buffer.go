package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"strconv"
	"strings"
	"text/tabwriter"
	"unicode"

	"github.com/spf13/cobra"

	"edgegateway/broker/spool"
)

func newBuffer(opts *options) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "buffer",
		Short: "Look into what is buffered for bridges and sessions",
		Long: `What someone must get later waits in the buffers: for each bridge until the far
side acknowledged it, for sessions of the broker until their clients did. These
commands ask the running gateway; with none running they read its files, and
change nothing in them but with purge.`,
		Args: cobra.NoArgs,
	}
	cmd.AddCommand(newBufferList(opts), newBufferShow(opts), newBufferExport(opts), newBufferVerify(opts), newBufferPurge(opts))
	return cmd
}

func newBufferList(opts *options) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "ls",
		Short: "List the buffers, who is owed something, and how much",
		Long: `ls shows each buffer with its size, and for each bridge and for the sessions how many
messages wait, their bytes, and how old the oldest is.`,
		Example: "  gateway buffer ls",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var list []BufferLog
			err := ask(cmd.Context(), controlPath(opts.state), "/buffer", nil, &list)
			if errors.Is(err, errNotRunning) {
				var b *buffers
				if b, err = lookIntoBuffers(opts); err == nil {
					defer b.close()
					list = b.list()
				}
			}
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(os.Stdout, list)
			}
			return printBuffers(os.Stdout, list)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print everything as JSON")
	return cmd
}

func printJSON(out io.Writer, v any) error {
	e := json.NewEncoder(out)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

func printBuffers(out io.Writer, list []BufferLog) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "BUFFER\tSTATE\tSEGMENTS\tON DISK\tOF AT MOST\t")
	for _, l := range list {
		fmt.Fprintf(w, "%s\t%s\t%d\t%s\t%s\t%s\n", l.Name, l.State, l.Segments, bytesText(l.Bytes), bytesText(l.Size), l.trouble())
	}
	fmt.Fprintln(w, "\nFOR\tKIND\tBUFFER\tWAITING\tBYTES\tOLDEST\t")
	for _, l := range list {
		for _, c := range l.Consumers {
			fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%s\t%s\t%s\n", c.Name, c.Kind, l.Name, c.Records, bytesText(c.Bytes), c.oldest(), c.hint())
		}
	}
	return w.Flush()
}

func (l *BufferLog) trouble() string {
	var parts []string
	if l.Error != "" {
		parts = append(parts, l.Error)
	}
	if l.State == "degraded" {
		parts = append(parts, "the medium fails: nothing is kept safe; check it and its free space")
	}
	for reason, n := range l.Dropped {
		if n > 0 {
			parts = append(parts, fmt.Sprintf("%d lost by %s", n, reason))
		}
	}
	if l.Damaged > 0 {
		parts = append(parts, bytesText(int64(l.Damaged))+" damaged")
	}
	return strings.Join(parts, ", ")
}

func (c *BufferConsumer) oldest() string {
	switch {
	case c.Records == 0:
		return "-"
	case c.Oldest == nil:
		return "of another boot"
	}
	return brief(*c.Oldest) + " ago"
}

func (c *BufferConsumer) hint() string {
	if c.Kind == "removed bridge" {
		return fmt.Sprintf("no bridge of the configuration; `gateway buffer purge %s` forgets it", c.Name)
	}
	return ""
}

// bytesText writes a size as people say it.
func bytesText(n int64) string {
	switch {
	case n < 10<<10:
		return fmt.Sprintf("%d B", n)
	case n < 10<<20:
		return fmt.Sprintf("%d KiB", n>>10)
	}
	return fmt.Sprintf("%d MiB", n>>20)
}

// eachMessage gives fn what a consumer is owed, of the running gateway or of
// its files.
func eachMessage(ctx context.Context, opts *options, consumer string, limit int, fn func(*BufferMessage) error) error {
	query := url.Values{"consumer": {consumer}, "limit": {strconv.Itoa(limit)}}
	resp, err := send(ctx, controlPath(opts.state), "/buffer/messages?"+query.Encode(), nil)
	if errors.Is(err, errNotRunning) {
		b, err := lookIntoBuffers(opts)
		if err != nil {
			return err
		}
		defer b.close()
		return b.messages(ctx, consumer, limit, fn)
	}
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	for in := json.NewDecoder(resp.Body); ; {
		var m BufferMessage
		err := in.Decode(&m)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("the gateway's answer ended early, it may have stopped: %w", err)
		}
		if err := fn(&m); err != nil {
			return err
		}
	}
	if text := resp.Trailer.Get(messagesError); text != "" {
		return errors.New(text)
	}
	return nil
}

func newBufferShow(opts *options) *cobra.Command {
	var asJSON bool
	var limit int
	cmd := &cobra.Command{
		Use:               "show BRIDGE",
		ValidArgsFunction: completeBridge(opts),
		Short:             "Show the next messages that wait for a bridge",
		Example: `  gateway buffer show aws
  gateway buffer show aws --limit 100
  gateway buffer show sessions         what clients of the broker are owed`,
		Long: `show prints the oldest messages that wait for a bridge: age, QoS, size, topic and the
beginning of the payload. They stay where they are.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if limit < 1 {
				return usageError("--limit is %d; it must be at least 1", limit)
			}
			ctx, stop := withSignals(cmd.Context())
			defer stop()
			if asJSON {
				return exportTo(ctx, os.Stdout, opts, args[0], limit)
			}
			w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
			n := 0
			err := eachMessage(ctx, opts, args[0], limit, func(m *BufferMessage) error {
				if n++; n == 1 {
					fmt.Fprintln(w, "AGE\tQOS\tSIZE\tTOPIC\tPAYLOAD")
				}
				fmt.Fprintln(w, m.row())
				return nil
			})
			if err == nil && n == 0 {
				fmt.Fprintf(os.Stderr, "nothing waits for %q\n", args[0])
			}
			return errors.Join(err, w.Flush())
		},
	}
	cmd.Flags().IntVar(&limit, "limit", 20, "how many messages at most")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON, one line for each message")
	return cmd
}

// payloadShown is how much of a payload a row has, characters.
const payloadShown = 60

func (m *BufferMessage) row() string {
	age, flag := "another boot", ""
	if m.Age != nil {
		age = brief(*m.Age)
	}
	if m.Retain {
		flag = "r"
	}
	text, size := fmt.Sprintf("%x", m.Binary), len(m.Binary)
	if m.Payload != nil {
		text, size = printable(*m.Payload), len(*m.Payload)
	}
	if runes := []rune(text); len(runes) > payloadShown {
		text = string(runes[:payloadShown]) + "…"
	}
	return fmt.Sprintf("%s\t%d%s\t%d\t%s\t%s", age, m.QoS, flag, size, printable(m.Topic), text)
}

// printable keeps a payload from moving the cursor about.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return '·'
	}, s)
}

func newBufferExport(opts *options) *cobra.Command {
	return &cobra.Command{
		Use:               "export BRIDGE",
		ValidArgsFunction: completeBridge(opts),
		Short:             "Write all messages that wait for a bridge as JSON lines",
		Long: `Write all messages that wait for a bridge to standard output, one JSON object a
line: id, class, topic, payload (or payload_base64 when it is no text), qos,
retain, time. Nothing is acknowledged: they stay in the buffer and are sent as
if nothing had happened.`,
		Example: `  gateway buffer export aws > backlog.jsonl`,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, stop := withSignals(cmd.Context())
			defer stop()
			return exportTo(ctx, os.Stdout, opts, args[0], 0)
		},
	}
}

func exportTo(ctx context.Context, out io.Writer, opts *options, consumer string, limit int) error {
	w := bufio.NewWriter(out)
	lines, n := json.NewEncoder(w), 0
	lines.SetEscapeHTML(false)
	err := eachMessage(ctx, opts, consumer, limit, func(m *BufferMessage) error {
		n++
		return lines.Encode(m)
	})
	if err = errors.Join(err, w.Flush()); err == nil && limit == 0 {
		fmt.Fprintf(os.Stderr, "%d messages\n", n)
	}
	return err
}

func newBufferVerify(opts *options) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "verify",
		Short: "Read all that is buffered and report damage",
		Long: `verify reads every block of the buffers, compares the checksums, and names each place
that is damaged. The exit code is 1 if there is one.`,
		Example: "  gateway buffer verify",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, stop := withSignals(cmd.Context())
			defer stop()
			var reports map[string]*spool.Report
			err := ask(ctx, controlPath(opts.state), "/buffer/verify", nil, &reports)
			if errors.Is(err, errNotRunning) {
				var b *buffers
				if b, err = lookIntoBuffers(opts); err == nil {
					defer b.close()
					reports, err = b.verify(ctx)
				}
			}
			if err != nil {
				return err
			}
			if asJSON {
				err = printJSON(os.Stdout, reports)
			} else {
				printReports(os.Stdout, reports)
			}
			for _, r := range reports {
				if len(r.Damage) > 0 {
					return &exitError{code: exitFailed}
				}
			}
			return err
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print everything as JSON")
	return cmd
}

func printReports(out io.Writer, reports map[string]*spool.Report) {
	for _, name := range logOrder {
		r := reports[name]
		if r == nil {
			continue
		}
		verdict := "whole"
		if n := len(r.Damage) + r.More; n > 0 {
			verdict = fmt.Sprintf("%d places are damaged", n)
		}
		fmt.Fprintf(out, "%s: %d segments, %d blocks, %d records, %s read: %s", name, r.Segments, r.Blocks, r.Records, bytesText(r.Bytes), verdict)
		if r.Tail > 0 {
			fmt.Fprintf(out, "; %d newer ones are not on the medium yet", r.Tail)
		}
		fmt.Fprintln(out)
		for _, d := range r.Damage {
			where := d.File
			if d.Bytes > 0 {
				where = fmt.Sprintf("%s at %d, %d bytes", d.File, d.Offset, d.Bytes)
			}
			fmt.Fprintf(out, "  %s: %s\n", where, d.What)
		}
		if len(r.Damage) > 0 {
			fmt.Fprintln(out, "  The rest is not affected. What is lost is reported as a gap when it is its turn.\n  Damage on a card that was never cut off means that it wears out: replace it.")
		}
	}
}

func newBufferPurge(opts *options) *cobra.Command {
	var yes bool
	cmd := &cobra.Command{
		Use:               "purge BRIDGE",
		ValidArgsFunction: completeBridge(opts),
		Short:             "Give up all that waits for a bridge",
		Long: `Give up all that waits for a bridge: it is never sent. A bridge that is in the
configuration goes on with the next message and reports the gap; one that is
not, because it was removed, is forgotten, which frees its room.`,
		Example: `  gateway buffer export old > old.jsonl && gateway buffer purge old`,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, stop := withSignals(cmd.Context())
			defer stop()
			if !yes {
				fmt.Fprintf(os.Stderr, "All that waits for %q will never be sent.\n", args[0])
				if err := confirm(ctx); err != nil {
					return err
				}
			}
			var p purged
			err := ask(ctx, controlPath(opts.state), "/buffer/purge", purgeRequest{args[0]}, &p)
			if errors.Is(err, errNotRunning) {
				p, err = purgeStopped(opts, args[0])
			}
			if err != nil {
				return err
			}
			what := ""
			if p.Removed {
				what = "; it is forgotten, for no bridge has that name"
			}
			fmt.Fprintf(os.Stderr, "%d messages were given up%s\n", p.Records, what)
			return nil
		},
	}
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return cmd
}
