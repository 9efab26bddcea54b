package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"edgegateway/devices/modbus"
	"edgegateway/internal/config"
	"edgegateway/internal/rehearsal"
)

func newProfilesTest(opts *options) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "test NAME|FILE",
		Short: "Check a profile and read a simulated device with it, without hardware",
		Long: `test checks a profile, simulates its device on this machine, reads all of its points
over the real protocol and compares them with what the device holds. It shows each
value with its raw registers, and what looks doubtful. That the registers are those
of the real device it cannot know: compare the values with the device's display.`,
		Example: `  gateway profiles test ./mymeter.toml
  gateway profiles test eastron/sdm630`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: nameProfiles(opts),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, stop := withSignals(cmd.Context())
			defer stop()
			p, err := profileOf(opts, args[0])
			if err != nil {
				return err
			}
			return testProfile(ctx, os.Stdout, p, asJSON)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the result as JSON")
	return cmd
}

// A testResult is what came of a test.
type testResult struct {
	Profile  string      `json:"profile"`
	Right    bool        `json:"right"` // all points were read as they are held
	Requests int         `json:"requests"`
	Points   []testPoint `json:"points"`
	Doubts   []string    `json:"doubts"`
}

type testPoint struct {
	Name   string          `json:"name"`
	Source string          `json:"source"`
	Raw    string          `json:"raw"` // registers as read, or text
	Value  json.RawMessage `json:"value"`
	Unit   string          `json:"unit,omitempty"`
	Right  bool            `json:"right"`
	Error  string          `json:"error,omitempty"`

	text string
}

func testProfile(ctx context.Context, out io.Writer, p *config.Profile, asJSON bool) error {
	results, err := rehearsal.Run(ctx, []*config.Profile{p})
	if err != nil {
		return err
	}
	r := newTestResult(&results[0])
	if asJSON {
		err = encodeJSON(out, r)
	} else {
		err = r.print(out)
	}
	if err == nil && !r.Right {
		err = fmt.Errorf("profile %s is not read back as it is meant", p.Name)
	}
	return err
}

func newTestResult(from *rehearsal.Result) *testResult {
	r := &testResult{
		Profile: from.Profile.Name, Right: len(from.Wrong()) == 0, Requests: from.Requests,
		Points: []testPoint{}, Doubts: append([]string{}, rehearsal.Doubts(from.Profile)...),
	}
	for _, v := range from.Values {
		t := testPoint{Name: v.Point.Name, Source: v.Point.Source.String(), Raw: string(v.Raw), Value: v.Read.AppendJSON(nil), Unit: v.Point.Unit, Right: v.Right(), text: v.Read.String()}
		switch v.Point.Source.(type) {
		case modbus.Register, modbus.ModelRegister:
			t.Raw = registers(v.Raw)
		}
		switch {
		case v.Err != nil:
			t.Error = v.Err.Error()
		case !t.Right:
			t.Error = fmt.Sprintf("the device holds %s", v.Held)
		}
		r.Points = append(r.Points, t)
	}
	return r
}

func (r *testResult) print(out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "POINT\tREGISTER\tRAW\tVALUE\t\t")
	right := 0
	for _, p := range r.Points {
		wrong := ""
		if p.Right {
			right++
		} else {
			wrong = "WRONG: " + p.Error
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s %s\t%s\t\n", p.Name, p.Source, cut(p.Raw), p.text, p.Unit, wrong)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	fmt.Fprintf(out, "%d of %d points are read back from a simulated device as it holds them, with %d requests.\n", right, len(r.Points), r.Requests)
	for _, d := range r.Doubts {
		fmt.Fprintf(out, "DOUBT: %s\n", d)
	}
	return nil
}

// cut shortens what would fill the line.
func cut(s string) string {
	const most = 24
	if runes := []rune(s); len(runes) > most {
		return string(runes[:most-1]) + "…"
	}
	return s
}
