package bridge

import (
	"fmt"
	"strings"
	"time"
)

// Limits are what a far broker bears and does not say, or says by breaking
// off. Zero values mean none.
type Limits struct {
	Packet      int     // bytes of one PUBLISH: topic, payload and a few more
	TopicBytes  int     // of a topic
	TopicLevels int     // of a topic
	Forbidden   string  // characters that no topic may hold
	NoRetain    bool    // retained messages are sent without the flag, the Will too
	Rate        float64 // messages in a second
	ByteRate    float64 // bytes in a second
}

// CheckTopic returns why a topic cannot be sent, "" if it can.
func (l *Limits) CheckTopic(topic string) string {
	levels := strings.Count(topic, "/") + 1
	switch {
	case l.TopicBytes > 0 && len(topic) > l.TopicBytes:
		return fmt.Sprintf("the topic has %d bytes, more than the %d that the far broker takes", len(topic), l.TopicBytes)
	case l.TopicLevels > 0 && levels > l.TopicLevels:
		return fmt.Sprintf("the topic has %d levels, more than the %d that the far broker takes", levels, l.TopicLevels)
	case strings.ContainsAny(topic, l.Forbidden):
		return fmt.Sprintf("the topic %q holds one of %q, which the far broker does not take", topic, l.Forbidden)
	}
	return ""
}

// A Thin says how what is old is thinned out: of each topic, one message in
// each interval of Every.
type Thin struct {
	After time.Duration // older ones only
	Every time.Duration // 0: everything is sent
}
