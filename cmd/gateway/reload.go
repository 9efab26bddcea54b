package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"edgegateway/broker"
	rights "edgegateway/broker/access"
	"edgegateway/internal/config"
)

// A reloader reads again, on SIGHUP, who may use the broker. Clients stay
// connected unless it concerns them.
type reloader struct {
	path    string // of the configuration
	name    string // under which the gateway runs
	access  *rights.Control
	broker  *broker.Broker
	log     *slog.Logger
	hangups chan os.Signal // one waits; more of them ask for the same
}

// catchHangups returns a channel of SIGHUPs, which end the process no more.
func catchHangups() (hangups chan os.Signal, stop func()) {
	hangups = make(chan os.Signal, 1)
	signal.Notify(hangups, syscall.SIGHUP)
	return hangups, func() { signal.Stop(hangups) }
}

func (r *reloader) run(ctx context.Context) error {
	for {
		select {
		case <-r.hangups:
			r.reload()
		case <-ctx.Done():
			return nil
		}
	}
}

func (r *reloader) reload() {
	policy, report := config.LoadAccess(r.path, r.name, config.Options{})
	for _, i := range report.Issues {
		place := fmt.Sprintf("%s:%d:%d", i.File, i.Line, i.Column)
		if i.Severity == config.Error {
			r.log.Error("users and rights stay as they were, for the configuration has an error; correct it and reload again", "file", place, "err", i.Message)
		} else {
			r.log.Warn("reload: this is likely not meant", "file", place, "err", i.Message)
		}
	}
	if policy == nil {
		return
	}
	n := r.broker.Review(r.access.Set(*policy))
	r.log.Info("users and rights reloaded; all else in the configuration needs a restart", "users", len(policy.Passwords.Users()), "disconnected", n)
}
