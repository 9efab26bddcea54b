package bridge

import (
	"bufio"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"sync"
	"time"
	"unicode/utf8"

	"edgegateway/broker"
)

// A Dead is a message that the far broker refused for what it is, or that
// would be refused, so that it was given up.
type Dead struct {
	Time time.Time `json:"time"` // when it was given up
	broker.ClockNote
	Bridge    string `json:"bridge"`
	ID        string `json:"mid"`
	Topic     string `json:"topic"` // local
	To        string `json:"to"`    // upstream
	Reason    string `json:"reason"`
	Size      int    `json:"size"` // bytes of the payload
	Text      string `json:"payload,omitempty"`
	Binary    []byte `json:"payload_base64,omitempty"` // where it is no text
	Truncated bool   `json:"truncated,omitempty"`
	Retain    bool   `json:"retain,omitempty"`
}

// A DeadLog is a bounded file of JSON lines, a Dead in each, and the one before
// it, to which it is renamed when it is half as long as both may be. It is a
// record for people: it is not synced, and what cannot be written is lost.
type DeadLog struct {
	mu   sync.Mutex
	path string
	most int64
}

// NewDeadLog returns the log at path, which need not exist. Both files hold at
// most so many bytes.
func NewDeadLog(path string, most int64) *DeadLog { return &DeadLog{path: path, most: most} }

func (l *DeadLog) older() string { return l.path + ".1" }

// setPayload cuts a payload to most bytes.
func (d *Dead) setPayload(p []byte, most int) {
	d.Size = len(p)
	if len(p) > most {
		p, d.Truncated = p[:most], true
	}
	if utf8.Valid(p) {
		d.Text = string(p)
	} else {
		d.Binary = p
	}
}

// Add appends d with as much of the payload as fits.
func (l *DeadLog) Add(d Dead, payload []byte) error {
	// A byte takes up to six as JSON. A line takes at most a quarter.
	d.setPayload(payload, int(l.most/32))
	line, err := json.Marshal(d)
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if info, err := os.Stat(l.path); err == nil && info.Size()+int64(len(line)) >= l.most/2 {
		if err := os.Rename(l.path, l.older()); err != nil {
			return err
		}
	}
	// It is opened for each, for refusals are rare and a purge may come
	// between.
	f, err := os.OpenFile(l.path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o640)
	if err != nil {
		return err
	}
	_, err = f.Write(append(line, '\n'))
	return errors.Join(err, f.Close())
}

// Read returns what is there, oldest first. Lines that are none, such as one
// that a power cut tore, are left out.
func (l *DeadLog) Read() ([]Dead, error) {
	var list []Dead
	for _, name := range []string{l.older(), l.path} {
		f, err := os.Open(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		in := bufio.NewReader(f)
		for err == nil {
			var line []byte
			line, err = in.ReadBytes('\n')
			var d Dead
			if json.Unmarshal(line, &d) == nil {
				list = append(list, d)
			}
		}
		f.Close()
		if err != io.EOF {
			return nil, err
		}
	}
	return list, nil
}

// Purge removes both files.
func (l *DeadLog) Purge() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	var errs []error
	for _, name := range []string{l.older(), l.path} {
		if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
