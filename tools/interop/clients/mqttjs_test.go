package clients

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"testing"
)

// A node is the process in which all clients of mqtt.js run.
type node struct {
	cmd *exec.Cmd
	in  io.WriteCloser

	mu       sync.Mutex
	requests int
	clients  int
	answers  map[int]chan answer
	inboxes  map[int]*inbox
}

// A request is what one client shall do.
type request struct {
	Request int    `json:"request"`
	Client  int    `json:"client"`
	Version int    `json:"version"`
	Do      string `json:"do"`

	Options      *options      `json:"options,omitempty"`
	Subscription *subscription `json:"subscription,omitempty"`
	Messages     []message     `json:"messages,omitempty"`
}

// An answer is what became of a request, or a message for a client.
type answer struct {
	Request int
	Error   string
	Reason  byte
	Reasons []int // not bytes, which would be base64
	Present bool

	Client  int
	Message *message
}

// theNode runs from the first use until stopNode.
var theNode = sync.OnceValues(func() (*node, error) {
	if _, err := os.Stat("testdata/mqttjs/node_modules/mqtt"); err != nil {
		return nil, fmt.Errorf("%w (./test.sh fetches what the tests need)", err)
	}
	n := &node{
		cmd: exec.Command("node", "testdata/mqttjs/client.js", keys.dir), answers: make(map[int]chan answer), inboxes: make(map[int]*inbox),
	}
	n.cmd.Stderr = os.Stderr
	var out io.Reader
	var err error
	if n.in, err = n.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	if out, err = n.cmd.StdoutPipe(); err != nil {
		return nil, err
	}
	if err := n.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start node: %w (./test.sh installs what the tests need)", err)
	}
	stopNode = func() { n.cmd.Process.Kill(); n.cmd.Wait() }
	go n.read(out)
	return n, nil
})

var stopNode = func() {}

func (n *node) read(out io.Reader) {
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, 10<<20)
	for lines.Scan() {
		var a answer
		if err := json.Unmarshal(lines.Bytes(), &a); err != nil {
			panic(fmt.Sprintf("%v in %.200s", err, lines.Text()))
		}
		n.mu.Lock()
		if a.Message != nil {
			n.inboxes[a.Client].add(*a.Message)
		} else if ch := n.answers[a.Request]; ch != nil {
			ch <- a
			delete(n.answers, a.Request)
		}
		n.mu.Unlock()
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, ch := range n.answers {
		ch <- answer{Error: "node has ended"}
	}
}

func (n *node) ask(r request) (answer, error) {
	ch := make(chan answer, 1)
	n.mu.Lock()
	n.requests++
	r.Request = n.requests
	n.answers[r.Request] = ch
	line, err := json.Marshal(r)
	if err == nil {
		_, err = n.in.Write(append(line, '\n'))
	}
	n.mu.Unlock()
	if err != nil {
		return answer{}, err
	}
	a := <-ch
	if a.Error != "" {
		return a, errors.New(a.Error)
	}
	return a, nil
}

// mqttJS is a client of mqtt.js.
type mqttJS struct {
	*node
	id, version int
}

func newMQTTJS(version int) func(*testing.T, *inbox) client {
	return func(t *testing.T, in *inbox) client {
		t.Helper()
		n, err := theNode()
		if err != nil {
			t.Fatal(err)
		}
		n.mu.Lock()
		defer n.mu.Unlock()
		n.clients++
		n.inboxes[n.clients] = in
		return &mqttJS{n, n.clients, version}
	}
}

func (c *mqttJS) do(what string, r request) (answer, error) {
	r.Client, r.Version, r.Do = c.id, c.version, what
	return c.ask(r)
}

func (c *mqttJS) connect(o options) (bool, error) {
	a, err := c.do("connect", request{Options: &o})
	if a.Reason != 0 {
		err = refused(a.Reason)
	}
	return a.Present, err
}

func (c *mqttJS) subscribe(s subscription) (byte, error) {
	a, err := c.do("subscribe", request{Subscription: &s})
	return a.Reason, err
}

func (c *mqttJS) publish(all ...message) (reasons []byte, err error) {
	a, err := c.do("publish", request{Messages: all})
	for _, reason := range a.Reasons {
		reasons = append(reasons, byte(reason))
	}
	return reasons, err
}

func (c *mqttJS) disconnect() error {
	_, err := c.do("disconnect", request{})
	return err
}
