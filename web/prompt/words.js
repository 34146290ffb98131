/** What stands under a prompt, in English and Chinese. */

export const WORDS = {
    en: {
        title: "Unknown words",
        unknown: "The model does not know these words and ignores them: {words}.",
        known: "It knows these; a click adds one to the prompt:",
    },
    zh: {
        title: "不认识的单词",
        unknown: "模型不认识以下单词，已忽略：{words}。",
        known: "它认识以下单词，单击即可加入提示词：",
    },
};
