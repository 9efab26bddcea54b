package main

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix" // whether standard input is a terminal

	"edgegateway/internal/budget"
)

// A running gateway lends a bus over the control socket. The connection of the
// request is the loan: it says once when the bus is to be had, and the loan
// ends with it, however the other side ends, or when its time is over.

// loanTime is how long a bus is lent at most.
const loanTime = 15 * time.Minute

var (
	errGivenBack = errors.New("it was given back, or who had it ended")
	errLoanOver  = fmt.Errorf("its time of %s is over", budget.Brief(loanTime))
)

// A lendRequest asks for a bus.
type lendRequest struct {
	Bus string `json:"bus"`
	For string `json:"for"` // the command, for people
}

// A lendNotice is a line of the answer: first that the bus is lent, then
// perhaps why it is taken back.
type lendNotice struct {
	Lent bool   `json:"lent"`
	Over string `json:"over,omitempty"`
}

func (c *control) postLend(w http.ResponseWriter, r *http.Request) {
	var req lendRequest
	if err := json.NewDecoder(r.Body).Decode(&req); err != nil {
		answer(w, nil, usageError("lend request: %w", err))
		return
	}
	io.Copy(io.Discard, r.Body) // only then the end of the connection is noticed
	bus := c.plant().buses[req.Bus]
	if bus == nil || bus.lend == nil {
		answer(w, nil, usageError("the running gateway has no bus %q", req.Bus))
		return
	}
	loan, end := context.WithCancelCause(context.Background())
	defer end(errGivenBack)
	defer context.AfterFunc(r.Context(), func() { end(errGivenBack) })()
	defer time.AfterFunc(c.loan, func() { end(errLoanOver) }).Stop()
	if err := bus.lend(loan, borrower(r, req)); err != nil {
		answer(w, nil, err)
		return
	}
	answer(w, lendNotice{Lent: true}, nil)
	http.NewResponseController(w).Flush()
	<-loan.Done()
	answer(w, lendNotice{Over: context.Cause(loan).Error()}, nil)
}

// borrower names who asks for a bus.
func borrower(r *http.Request, req lendRequest) string {
	cred, ok := r.Context().Value(peerKey{}).(*unix.Ucred)
	if !ok {
		return req.For
	}
	return fmt.Sprintf("%s of %s (process %d)", req.For, peerName(cred.Uid), cred.Pid)
}

// borrow asks the running gateway for a bus and returns when it is to be had:
// until giveBack is called, or the context that is returned ends, whose cause
// says why the gateway took it back.
func borrow(ctx context.Context, socket, bus, what string) (_ context.Context, giveBack func(), err error) {
	resp, err := send(ctx, socket, "/lend", lendRequest{bus, what})
	if err != nil {
		return nil, nil, err
	}
	lines := bufio.NewReader(resp.Body)
	var n lendNotice
	line, err := lines.ReadBytes('\n')
	if err == nil {
		err = json.Unmarshal(line, &n)
	}
	if err != nil || !n.Lent {
		resp.Body.Close()
		return nil, nil, fmt.Errorf("bus %s: the gateway did not lend it: %w", bus, cmp.Or(err, errors.New(n.Over)))
	}
	lent, cancel := context.WithCancelCause(ctx)
	go func() {
		n := lendNotice{Over: "it ended"}
		if line, err := lines.ReadBytes('\n'); err == nil {
			json.Unmarshal(line, &n)
		}
		cancel(fmt.Errorf("bus %s: the gateway took it back: %s", bus, n.Over))
	}()
	return lent, func() { cancel(nil); resp.Body.Close() }, nil
}

// borrow runs do on a bus of the running gateway, which stops for it. It asks
// first, unless yes is set.
func (p *busPlace) borrow(ctx context.Context, what string, yes bool, most time.Duration, do func(context.Context, *busPlace) error) error {
	if most > loanTime {
		return fmt.Errorf("bus %s is in use by the running gateway, which lends it for %s at most, and this takes up to %s: name fewer --units or --speeds, or stop the gateway first (systemctl stop gateway)",
			p.bus, budget.Brief(loanTime), budget.Brief(max(time.Second, most.Round(time.Second))))
	}
	fmt.Fprintf(os.Stderr, "Bus %s is in use by the running gateway. Other speeds stop it for up to %s, and some seconds more for each unit that is found: its devices%s are not read or written meanwhile and count as in maintenance.\n",
		p.bus, budget.Brief(max(time.Second, most.Round(time.Second))), p.whoStops())
	if !yes {
		if err := confirm(ctx); err != nil {
			return fmt.Errorf("bus %s: %w", p.bus, err)
		}
	}
	lent, giveBack, err := borrow(ctx, p.socket, p.bus, what)
	if err != nil {
		return err
	}
	defer giveBack()
	own := *p
	own.socket = ""
	return do(lent, &own)
}

// whoStops names the devices of a bus, as far as they are known.
func (p *busPlace) whoStops() string {
	var ids []string
	for _, unit := range slices.Sorted(maps.Keys(p.known)) {
		for _, dev := range p.known[unit] {
			ids = append(ids, dev.ID)
		}
	}
	switch n := len(ids); {
	case n == 0:
		return ""
	case n > 8:
		ids = append(ids[:8], fmt.Sprintf("%d more", n-8))
	}
	return " (" + strings.Join(ids, ", ") + ")"
}

// confirm asks on the terminal whether to go on.
func confirm(ctx context.Context) error {
	if _, err := unix.IoctlGetTermios(int(os.Stdin.Fd()), unix.TCGETS); err != nil {
		return usageError("nothing was done: with --yes this is not asked for, and there is no terminal to ask on")
	}
	fmt.Fprint(os.Stderr, "Go on? [y/N] ")
	answers := make(chan string, 1)
	go func() { // ends with the process if nobody answers
		line, _ := bufio.NewReader(os.Stdin).ReadString('\n')
		answers <- line
	}()
	select {
	case line := <-answers:
		if word := strings.ToLower(strings.TrimSpace(line)); word == "y" || word == "yes" {
			return nil
		}
		return errors.New("nothing was done")
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
