package mapping

import (
	"strconv"

	"edgegateway/broker"
	"edgegateway/devices"
)

// A ResultState says how far a command came.
type ResultState uint8

const (
	Accepted ResultState = iota + 1 // checked, and its intent logged; more follows
	Written                         // the device confirmed the write; not read back
	Verified                        // read back and found to be so
	Rejected                        // refused before the device was asked
	Failed                          // the device refused it, or was not reached
	Expired                         // came too late
	Unknown                         // a crash or a lost reply after the intent was logged; never retried
)

func (s ResultState) String() string {
	names := [...]string{"accepted", "written", "verified", "rejected", "failed", "expired", "unknown"}
	if s >= Accepted && s <= Unknown {
		return names[s-1]
	}
	return "result " + strconv.Itoa(int(s))
}

// A Result answers a command.
type Result struct {
	Reply  Reply
	ID     string // as the command gave it, "" for none
	State  ResultState
	Reason string        // of a state that is no success
	Old    Value         // before the write; null: not known, and left out
	New    Value         // what the device holds now, or was told to; likewise
	Points []PointResult // of a command with several, in order; Old and New are null then
	Stamp  devices.Stamp // when it was known

	Repeated bool   // the command was answered with this before
	By       string // of what nobody asked for: "on_loss"; "" else
}

// A PointResult is the part of a result that tells of one point.
type PointResult struct {
	Point    *Point
	State    ResultState
	Reason   string
	Old, New Value
}

// AppendResult appends the message that r is:
//
//	{"status":"verified","id":"a","old":20,"value":21.5,"time":"…"}
//	{"status":"failed","reason":"timeout","points":{"mode":{"status":"written","value":"auto"},…},"time":"…"}
//
// The message owns its payload.
func AppendResult(dst []broker.Message, r *Result, c broker.Clock) []broker.Message {
	var o composer
	o.reset(c)
	o.text("{")
	o.outcome(r.State, r.Reason, r.ID, r.Old, r.New)
	if r.By != "" {
		o.text(`,"by":`)
		o.str(r.By)
	}
	if r.Repeated {
		o.text(`,"repeated":true`)
	}
	before := `,"points":{`
	for i := range r.Points {
		p := &r.Points[i]
		o.text(before)
		o.str(p.Point.Name)
		o.text(":{")
		o.outcome(p.State, p.Reason, "", p.Old, p.New)
		o.text("}")
		before = ","
	}
	if len(r.Points) > 0 {
		o.text("}")
	}
	o.text(",")
	o.stamp(r.Stamp)
	o.text("}")
	msg := o.message(r.Reply.Topic, r.Stamp)
	msg.Class = broker.Critical
	if len(r.Reply.Correlation) > 0 {
		msg.Props = &broker.Properties{Correlation: r.Reply.Correlation}
	}
	return append(dst, msg)
}

// An Audit tells of one write, whoever asked for it.
type Audit struct {
	Seq    uint64 // rises by one for each command of the gateway
	Device *Device
	By     string      // who: a user, "bridge:aws", "uid 1000", "on_loss", "setup"
	Client string      // the id of the MQTT client, "" for none
	ID     string      // of the command, "" for none
	Asked  Value       // what was to be written
	Result PointResult // what became of it
	Stamp  devices.Stamp
}

// AppendAudit appends the message that a is, on topic:
//
//	{"time":"…","seq":17,"device":"boiler","point":"setpoint","by":"anonymous","client":"panel","asked":21.5,"status":"verified","old":20,"value":21.5}
//
// The message owns its payload.
func AppendAudit(dst []broker.Message, topic string, a *Audit, c broker.Clock) []broker.Message {
	var o composer
	o.reset(c)
	o.text("{")
	o.stamp(a.Stamp)
	o.text(`,"seq":`)
	o.buf = strconv.AppendUint(o.buf, a.Seq, 10)
	for _, m := range [...]struct{ key, text string }{
		{`,"device":`, a.Device.Name}, {`,"point":`, a.Result.Point.Name}, {`,"by":`, a.By}, {`,"client":`, a.Client},
	} {
		if m.text != "" {
			o.text(m.key)
			o.str(m.text)
		}
	}
	if !a.Asked.IsNull() {
		o.text(`,"asked":`)
		o.value(a.Asked)
	}
	o.text(",")
	o.outcome(a.Result.State, a.Result.Reason, a.ID, a.Result.Old, a.Result.New)
	o.text("}")
	msg := o.message(topic, a.Stamp)
	msg.Class = broker.Critical
	return append(dst, msg)
}

// outcome writes the members that a result and its points share.
func (o *composer) outcome(state ResultState, reason, id string, before, after Value) {
	o.text(`"status":`)
	o.str(state.String())
	for _, m := range [...]struct{ key, text string }{{`,"id":`, id}, {`,"reason":`, reason}} {
		if m.text != "" {
			o.text(m.key)
			o.str(m.text)
		}
	}
	for _, m := range [...]struct {
		key   string
		value Value
	}{{`,"old":`, before}, {`,"value":`, after}} {
		if !m.value.IsNull() {
			o.text(m.key)
			o.value(m.value)
		}
	}
}
