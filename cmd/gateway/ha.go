package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"slices"
	"time"

	"edgegateway/broker"
	"edgegateway/devices"
	"edgegateway/internal/homeassistant"
)

// An announcer tells Home Assistant of the gateway's devices: at the start, and
// again each time Home Assistant says that it is online. What it announced is
// in a file of the state folder, so that what is gone from the configuration
// can be taken back.
type announcer struct {
	list    []homeassistant.Announcement // none: only takes back
	path    string
	publish func(*broker.Message)
	log     *slog.Logger
	birth   chan struct{} // room for one: Home Assistant is online
	// between is the pause between two messages after a birth: every gateway
	// of a site answers the same one.
	between time.Duration
	stop    func() // and waits; nil until it runs
}

// announcedVersion is the format of the file.
const announcedVersion = 1

// An announcedFile is the file: the platform of each component, by the topics
// of the messages.
type announcedFile struct {
	Version  int                          `json:"version"`
	Messages map[string]map[string]string `json:"messages"`
}

func newAnnouncer(list []homeassistant.Announcement, path string, publish func(*broker.Message), log *slog.Logger) *announcer {
	return &announcer{list: list, path: path, publish: publish, log: log, birth: make(chan struct{}, 1), between: 50 * time.Millisecond}
}

// announces reports whether a discovery message goes to topic.
func (a *announcer) announces(topic string) bool {
	return slices.ContainsFunc(a.list, func(x homeassistant.Announcement) bool { return x.Topic == topic })
}

// handle is given each message on the birth topic by the broker. One that is
// retained tells of the past as well as of now: what it announces is there.
func (a *announcer) handle(msg *broker.Message) {
	if string(msg.Payload) != "online" {
		return
	}
	select {
	case a.birth <- struct{}{}:
	default: // it will be told all the same
	}
}

// run announces everything, and again after each birth, until ctx is done.
func (a *announcer) run(ctx context.Context) error {
	if err := a.start(); err != nil {
		a.log.Warn("what was announced to Home Assistant is not remembered; what is removed from the configuration meanwhile has to be deleted there by hand", "err", err)
	}
	for {
		select {
		case <-a.birth:
		case <-ctx.Done():
			return nil
		}
		a.log.Info("Home Assistant is online: announcing the devices again", "n", len(a.list))
		for i := range a.list {
			a.send(a.list[i].Topic, &a.list[i].Payload)
			if !devices.Sleep(ctx, a.between) {
				return nil
			}
		}
	}
}

// start announces everything for the first time and takes back what was
// announced before and is no more. What will have been announced is noted
// before it is, so that nothing can be forgotten.
func (a *announcer) start() error {
	before, err := readAnnounced(a.path)
	now := a.components()
	known := maps.Clone(now)
	for topic, components := range before {
		if known[topic] == nil {
			known[topic] = components
		}
	}
	if !same(known, before) {
		err = errors.Join(err, a.save(known))
	}
	for _, topic := range slices.Sorted(maps.Keys(before)) {
		if now[topic] == nil {
			a.publish(&broker.Message{Topic: topic, QoS: 1, Retain: true, Stamp: int64(devices.Now())})
			a.log.Info("removed from Home Assistant", "topic", topic)
		}
	}
	for i := range a.list {
		x := &a.list[i]
		for key, platform := range before[x.Topic] {
			if x.Payload.Components[key] == nil { // it goes if there is nothing but its platform
				x.Payload.Components[key] = &homeassistant.Component{Platform: platform}
			}
		}
		a.send(x.Topic, &x.Payload)
	}
	if !same(now, known) {
		err = errors.Join(err, a.save(now))
	}
	return err
}

func (a *announcer) components() map[string]map[string]string {
	all := map[string]map[string]string{}
	for i := range a.list {
		platforms := map[string]string{}
		for key, c := range a.list[i].Payload.Components {
			platforms[key] = c.Platform
		}
		all[a.list[i].Topic] = platforms
	}
	return all
}

func same(a, b map[string]map[string]string) bool {
	return maps.EqualFunc(a, b, maps.Equal[map[string]string, map[string]string])
}

func (a *announcer) send(topic string, payload *homeassistant.Config) {
	text, err := json.Marshal(payload)
	if err != nil {
		a.log.Error("a device cannot be announced to Home Assistant", "topic", topic, "err", err)
		return
	}
	a.publish(&broker.Message{Topic: topic, Payload: text, QoS: 1, Retain: true, Stamp: int64(devices.Now())})
}

func (a *announcer) save(messages map[string]map[string]string) error {
	return writeWhole(a.path, announcedFile{announcedVersion, messages})
}

// readAnnounced reads the file; one that cannot be used is as none.
func readAnnounced(path string) (map[string]map[string]string, error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var file announcedFile
	if err == nil {
		err = json.Unmarshal(text, &file)
	}
	if err == nil && file.Version > announcedVersion {
		err = fmt.Errorf("it has format %d, this program knows %d", file.Version, announcedVersion)
	}
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	return file.Messages, nil
}
